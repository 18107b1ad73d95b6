//! `playbooks test` as a user runs it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// Without any setting: the command needs none.
async fn run(arguments: &[&str], environment: &[(&str, &str)], folder: &Path) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_indicator-relay"));
    let environment: BTreeMap<&str, &str> = environment.iter().copied().collect();
    let output =
        command.args(["playbooks", "test"]).args(arguments).env_clear().envs(environment).current_dir(folder).output().await;
    let output = output.expect("started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

fn example(name: &str) -> String {
    format!("{}/examples/playbooks/{name}", env!("CARGO_MANIFEST_DIR"))
}

const DELIVERY: &str = r##"{"value": [
    {"subscriptionId": "7d0c", "ChangeType": "Updated", "clientState": "NEVER", "resource": "Users/3f6c", "tenantId": "c0ff",
     "resourceData": {"@odata.type": "#Microsoft.Graph.User", "id": "3f6c", "sequenceNumber": 637000000000000001}},
    {"subscriptionId": "7d0c", "lifecycleEvent": "missed", "organizationId": "c0ff"}
]}"##;

#[tokio::test]
async fn a_delivery_is_shown_with_what_would_be_done() {
    let folder = folder(&[("delivery.json", DELIVERY)]);
    let (code, out, err) = run(&["delivery.json", "--playbooks", &example("guide.toml")], &[], folder.path()).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    insta::assert_snapshot!(out, @r##"
    Item 1: updated Users/3f6c
      microsoft-graph-notifications-bi-directional: matches; fetch: none
        all      = "{\"@odata.type\":\"#Microsoft.Graph.User\",\"id\":\"3f6c\",\"sequenceNumber\":637000000000000001}"
        id       = "3f6c"
        paths    = []
        sequence = "637000000000000001"
        type     = "#Microsoft.Graph.User"
        → 1 queue: to `graph-notifications`: {"all":"{\"@odata.type\":\"#Microsoft.Graph.User\",\"id\":\"3f6c\",\"sequenceNumber\":637000000000000001}","id":"3f6c","paths":[],"sequence":"637000000000000001","type":"#Microsoft.Graph.User"}
    Item 2: missed (no resource)
      microsoft-graph-notifications-bi-directional: does not match
    "##);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is written");
}

#[tokio::test]
async fn a_body_from_the_vendors_pages_matches_whoever_subscribes_to_its_like() {
    let delivery = r##"{"value": [
        {"changeType": "created", "resource": "teams('t')/channels('19:c@thread.tacv2')/messages('1')/replies('2')",
         "resourceData": {"id": "2", "@odata.type": "#Microsoft.Graph.chatMessage"}},
        {"changeType": "created", "resource": "communications/onlineMeetings('MSo5')/transcripts('MSMj')",
         "resourceData": {"id": "MSMj", "@odata.type": "#Microsoft.Graph.callTranscript"}}
    ]}"##;
    let playbook = |name: &str, resource: &str| {
        format!(
            "[[playbook]]\nname = \"{name}\"\n[playbook.source]\nkind = \"graph\"\nresource = \"{resource}\"\n\
             change_types = [\"created\"]\n[[playbook.action]]\nkind = \"queue\"\nqueue = \"seen\"\nbody = \"selected\"\n\
             [playbook.select]\nstring = {{ id = \"notification.resourceData.id\" }}\n"
        )
    };
    let document = [
        "version = 1\n".to_owned(),
        playbook("posts", "teams/getAllMessages"),
        playbook("transcripts", "users/jane@a.example/onlineMeetings/getAllTranscripts"),
    ];
    let folder = folder(&[("delivery.json", delivery), ("playbooks.toml", &document.concat())]);
    let (code, out, _) = run(&["delivery.json"], &[], folder.path()).await;
    assert_eq!(code, 0, "{out}");
    insta::assert_snapshot!(out, @r##"
    Item 1: created teams('t')/channels('19:c@thread.tacv2')/messages('1')/replies('2')
      posts: matches; fetch: resource
        id = "2"
        → 1 queue: to `seen`: {"id":"2"}
      transcripts: does not match
    Item 2: created communications/onlineMeetings('MSo5')/transcripts('MSMj')
      posts: does not match
      transcripts: matches; fetch: resource
        id = "MSMj"
        → 1 queue: to `seen`: {"id":"MSMj"}
    "##);
}

#[tokio::test]
async fn an_object_alone_is_run_through_every_playbook() {
    let alert =
        r#"{"id": "a1", "severity": "high", "title": "T", "evidence": [{"ipAddress": "198.51.100.7", "verdict": "malicious"}]}"#;
    let folder = folder(&[("alert.json", alert)]);
    let file = example("indicators.toml");
    let (code, out, err) = run(&["alert.json", "--resource"], &[("PLAYBOOKS_FILE", &file)], folder.path()).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    insta::assert_snapshot!(out, @r#"
    Item 1: the object, as if it had changed
      alert-indicators: matches; fetch: none
        hashes     = []
        id         = "a1"
        ips        = ["198.51.100.7"]
        severity   = "high"
        techniques = []
        text       = ""
        title      = "T"
        → addresses threatconnect_indicator: 1 of type Address in Acme Org: 198.51.100.7
        → files threatconnect_indicator: nothing: there is no value
        → case threatconnect_case: `T`, High, 1 artifacts (ir-b003dae4572a7d946f8855d9f74037d3)
        → 4 trigger_export: an export of all jobs at most every 300 s
    "#);

    let (code, out, _) = run(&["alert.json", "--resource", "--json"], &[("PLAYBOOKS_FILE", &file)], folder.path()).await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    let playbook = &document["items"][0]["playbooks"][0];
    assert_eq!(
        (code, &playbook["name"], &playbook["variables"]["ips"]),
        (0, &"alert-indicators".into(), &serde_json::json!(["198.51.100.7"]))
    );
    assert_eq!(playbook["actions"][0]["action"]["kind"], "threatconnect_indicator");
    assert_eq!(document["problems"], serde_json::json!([]));
}

#[tokio::test]
async fn problems_come_with_file_line_and_column() {
    let text = "version = 1\n\n[[playbook]]\nname = \"bad\"\nsource = { resource = \"users\", change_types = [\"created\"] }\naction = [{ kind = \"webhook\", url_secret = \"TC_URL\" }]\n\n\
                [[playbook]]\nname = \"good\"\nsource = { resource = \"users\", change_types = [\"updated\"] }\naction = [{ kind = \"trigger_export\" }]\n";
    let folder = folder(&[("playbooks.toml", text), ("delivery.json", DELIVERY), ("no.json", "{")]);
    let (code, out, err) = run(&["delivery.json"], &[], folder.path()).await;
    assert_eq!(code, 2, "{out}");
    assert_eq!(
        err,
        "playbooks.toml:5:48: \"created\" never comes for a user; it has \"updated\", \"deleted\" (a new user is `updated`, and so is a soft deletion)\n\
         playbooks.toml:6:44: there is no secret `TC_URL`; set it, or the vault secret of this name\n"
    );
    assert!(out.contains("good: matches"), "the others run: {out}");
    let (code, _, err) = run(&["delivery.json"], &[("TC_URL", "https://tc.example/x")], folder.path()).await;
    assert!(code == 2 && !err.contains("TC_URL"), "{err}");
    for (arguments, expected) in [
        (vec!["absent.json"], "absent.json cannot be read"),
        (vec!["no.json"], "no.json is no JSON"),
        (vec!["delivery.json", "--playbooks", "absent.toml"], "give the playbooks with --playbooks"),
        (vec!["delivery.json", "--playbook", "bad"], "there are: good"),
    ] {
        let (code, out, err) = run(&arguments, &[], folder.path()).await;
        assert!(code == 2 && out.is_empty() && err.contains(expected), "{arguments:?}: {code} {err}");
    }
}

/// A playbook that shows what it is given.
const SHOWS: &str = r#"
version = 1

[[playbook]]
name = "shows"
source = { resource = "users", change_types = ["updated"] }
select = { string = { all = "notification", name = "resource.displayName" } }
action = [{ kind = "trigger_export" }]
"#;

/// Each as the endpoint reads it: names in any case, members twice, members that nobody knows, both kinds of events, and what
/// would be dropped.
#[tokio::test]
async fn what_varies_in_deliveries_is_read_as_the_endpoint_reads_it() {
    let delivery = r##"{"validationTokens": null, "Value": [
        {"SUBSCRIPTIONID": "a", "subscriptionId": "b", "ClientState": "NEVER", "changetype": "UPDATED", "Resource": "Users/3f6c", "more": {"x": 1},
         "subscriptionExpirationDateTime": "NA", "ResourceData": {"@Odata.Type": "#Microsoft.Graph.User", "ID": "3f6c", "own": [1]}},
        {"subscriptionId": "b", "lifecycleEvent": "Missed", "changeType": "updated", "resource": "Users/3f6c"},
        {"subscriptionId": "b", "changeType": "unknownFutureValue", "resource": "Users/3f6c"},
        5
    ]}"##;
    let marked = format!("\u{feff}{delivery}");
    let folder = folder(&[("delivery.json", &marked), ("playbooks.toml", SHOWS)]);
    let (code, out, err) = run(&["delivery.json"], &[], folder.path()).await;
    assert_eq!((code, err.as_str()), (1, ""), "what would be dropped is no success: {out}");
    insta::assert_snapshot!(out, @r##"
    Item 1: updated Users/3f6c
      shows: matches; fetch: resource
        all  = "{\"changeType\":\"updated\",\"more\":{\"x\":1},\"resource\":\"Users/3f6c\",\"resourceData\":{\"@odata.type\":\"#Microsoft.Graph.User\",\"id\":\"3f6c\",\"own\":[1]},\"subscriptionExpirationDateTime\":null,\"subscriptionId\":\"b\"}"
        name = ""
        → 1 trigger_export: an export of all jobs at most every 60 s
    Item 2: missed Users/3f6c
      shows: does not match
    Item 3: dropped: it has neither a `changeType` nor a `lifecycleEvent` that is known
    Item 4: dropped: it is no object
    "##);
    let (code, out, _) = run(&["delivery.json", "--json"], &[], folder.path()).await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!((code, &document["items"][0]["dropped"]), (1, &Value::Null));
    assert_eq!(document["items"][3]["dropped"], "it is no object");
}

#[tokio::test]
async fn a_list_or_one_item_is_as_good_as_a_delivery() {
    let one = r#"{"changeType": "updated", "resource": "users/3f6c", "resourceData": {"id": "3f6c"}}"#;
    let list = format!("[{one}, {one}]");
    let folder = folder(&[("one.json", one), ("list.json", &list), ("none.json", r#"{"value": []}"#), ("playbooks.toml", SHOWS)]);
    for (file, items) in [("one.json", 1), ("list.json", 2)] {
        let (code, out, err) = run(&[file], &[], folder.path()).await;
        assert_eq!((code, err.as_str(), out.matches("shows: matches; fetch: resource").count()), (0, "", items), "{out}");
    }
    let (code, out, err) = run(&["none.json"], &[], folder.path()).await;
    assert!(code == 2 && out.is_empty() && err.contains("none.json holds no notification"), "{err}");
}

#[tokio::test]
async fn an_encrypted_item_is_not_opened_and_says_what_stands_for_it() {
    let delivery = r#"{"value": [{"changeType": "updated", "resource": "users/3f6c", "resourceData": {"id": "3f6c"},
        "EncryptedContent": {"data": "c2VjcmV0", "dataKey": "a2V5", "dataSignature": "c2ln", "encryptionCertificateId": "c"}}]}"#;
    let folder = folder(&[("rich.json", delivery), ("user.json", r#"{"displayName": "Jane"}"#), ("playbooks.toml", SHOWS)]);
    let (code, out, _) = run(&["rich.json"], &[], folder.path()).await;
    assert!(code == 0 && out.starts_with("Item 1: updated users/3f6c (encrypted: it is not opened here; "), "{out}");
    assert!(!out.contains("c2VjcmV0") && out.contains(r#"name = """#), "{out}");
    let (code, out, _) = run(&["rich.json", "--fetched", "user.json"], &[], folder.path()).await;
    assert!(code == 0 && out.contains("--fetched stands for what it holds") && out.contains(r#"name = "Jane""#), "{out}");
}
