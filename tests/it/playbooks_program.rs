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
        → action 1, queue graph-notifications, with `idempotencyKey` added: {"all":"{\"@odata.type\":\"#Microsoft.Graph.User\",\"id\":\"3f6c\",\"sequenceNumber\":637000000000000001}","id":"3f6c","paths":[],"sequence":"637000000000000001","type":"#Microsoft.Graph.User"}
    Item 2: missed: no playbook's affair; what was missed would be looked up
    2 items: 1 run with 1 action, 1 about a subscription
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
      posts: matches; fetch: resource teams/t/channels/19%3Ac%40thread.tacv2/messages/1/replies/2 (not read here: `resource` is null; give the object with --fetched FILE)
        id = "2"
        → action 1, queue seen, with `idempotencyKey` added: {"id":"2"}
      transcripts: does not match: it waits for users/jane@a.example/onlineMeetings/getAllTranscripts; this is teams('t')/channels('19:c@thread.tacv2')/messages('1')/replies('2')
    Item 2: created communications/onlineMeetings('MSo5')/transcripts('MSMj')
      posts: does not match: it waits for teams/getAllMessages; this is communications/onlineMeetings('MSo5')/transcripts('MSMj')
      transcripts: matches; fetch: resource users/jane%40a.example/onlineMeetings/MSo5/transcripts/MSMj (not read here: `resource` is null; give the object with --fetched FILE)
        id = "MSMj"
        → action 1, queue seen, with `idempotencyKey` added: {"id":"MSMj"}
    2 items: 2 runs with 2 actions
    "##);
}

#[tokio::test]
async fn what_does_not_say_what_it_is_about_is_tried_as_the_worker_would() {
    let delivery = r#"{"value": [
        {"changeType": "updated", "resource": "9f00aa", "resourceData": {"id": "9f00aa"}},
        {"ChangeType": "updated", "resource": "https://outlook.office365.com/api/beta/Users('u1')", "resourceData": {"id": "u1"}},
        {"changeType": "updated", "resource": "https://graph.microsoft.com/v1.0/users/u1", "resourceData": {"id": "u1"}}
    ]}"#;
    let playbook = |name: &str, resource: &str| {
        format!(
            "[[playbook]]\nname = \"{name}\"\n[playbook.source]\nkind = \"graph\"\nresource = \"{resource}\"\nallow_retired = true\n\
             change_types = [\"updated\"]\n[[playbook.action]]\nkind = \"trigger_export\"\n"
        )
    };
    let document = [
        "version = 1\n".to_owned(),
        playbook("alerts", "security/alerts?$filter=severity eq 'high'"),
        playbook("users", "users").replace("[playbook.source]", "enabled = false\n[playbook.source]"),
    ];
    let folder = folder(&[("delivery.json", delivery), ("playbooks.toml", &document.concat())]);
    let (code, out, err) = run(&["delivery.json"], &[], folder.path()).await;
    assert_eq!(code, 0, "{out}{err}");
    insta::assert_snapshot!(out, @r"
    Item 1: updated 9f00aa
      its `resource` does not say what it is about, which the worker knows by the subscription: taken for each playbook's own
      alerts: matches; fetch: resource security/alerts/9f00aa (not read here: `resource` is null; give the object with --fetched FILE)
        → action 1, trigger_export: an export of all jobs at most every 60 s
      users: matches (disabled: it would be put with the dead letters); fetch: resource users/9f00aa (not read here: `resource` is null; give the object with --fetched FILE)
        → action 1, trigger_export: an export of all jobs at most every 60 s
    Item 2: updated https://outlook.office365.com/api/beta/Users('u1')
      alerts: does not match: it waits for security/alerts?$filter=severity eq 'high'; this is https://outlook.office365.com/api/beta/Users('u1')
      users: matches (disabled: it would be put with the dead letters); fetch: resource users/u1 (not read here: `resource` is null; give the object with --fetched FILE)
        → action 1, trigger_export: an export of all jobs at most every 60 s
    Item 3: updated https://graph.microsoft.com/v1.0/users/u1
      alerts: does not match: it waits for security/alerts?$filter=severity eq 'high'; this is https://graph.microsoft.com/v1.0/users/u1
      users: matches (disabled: it would be put with the dead letters); fetch: resource users/u1 (not read here: `resource` is null; give the object with --fetched FILE)
        → action 1, trigger_export: an export of all jobs at most every 60 s
    3 items: 4 runs with 4 actions
    ");
    let (_, out, _) = run(&["delivery.json", "--json"], &[], folder.path()).await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    let assumed: Vec<bool> = (0..3).map(|item| document["items"][item]["assumed"].is_string()).collect();
    assert_eq!((assumed, &document["items"][0]["playbooks"][0]["matches"]), (vec![true, false, false], &true.into()), "{out}");
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
      alert-indicators: matches; fetch: none (the object is given)
        hashes     = []
        id         = "a1"
        ips        = ["198.51.100.7"]
        severity   = "high"
        techniques = []
        text       = ""
        title      = "T"
        → action 1 (addresses), threatconnect_indicator: 1 of type Address in Acme Org: 198.51.100.7
        → action 2 (files), threatconnect_indicator: nothing: there is no value
        → action 3 (case), threatconnect_case: `T`, High, 1 artifact (ir-b003dae4572a7d946f8855d9f74037d3)
        → action 4, trigger_export: an export of all jobs at most every 300 s
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
    let folder = folder(&[
        ("playbooks.toml", text),
        ("delivery.json", DELIVERY),
        ("no.json", "{"),
        ("empty.json", " \n"),
        ("list.json", "[]"),
        ("user.json", "{\"id\": \"3f6c\"}"),
    ]);
    let (code, out, err) = run(&["delivery.json"], &[], folder.path()).await;
    assert_eq!(code, 2, "{out}");
    assert_eq!(
        err,
        "playbooks.toml:5:48: \"created\" never comes for a user; it has \"updated\", \"deleted\" (a new user is `updated`, and so is a soft deletion)\n\
         playbooks.toml:6:44: warning: there is no secret `TC_URL` here; where this is to run, set it, or the vault's secret `tc-url`\n"
    );
    assert!(out.contains("good: matches") && out.contains("bad: left out because of its mistakes"), "the others run: {out}");
    let (_, out, _) = run(&["delivery.json", "--json"], &[], folder.path()).await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(document["left_out"], serde_json::json!([{"name": "bad", "line": 5}]));
    let (code, _, err) = run(&["delivery.json"], &[("TC_URL", "https://tc.example/x")], folder.path()).await;
    assert!(code == 2 && !err.contains("TC_URL"), "{err}");
    for (arguments, expected) in [
        (vec!["absent.json"], "absent.json cannot be read"),
        (vec!["no.json"], "no.json is no JSON"),
        (vec!["delivery.json", "--playbooks", "absent.toml"], "give the playbooks with --playbooks"),
        (
            vec!["delivery.json", "--playbook", "bad"],
            "`bad` (playbooks.toml, line 5) cannot run because of its mistakes; there are: good",
        ),
        (vec!["delivery.json", "--playbook", "bda"], "no playbook in playbooks.toml is called `bda`; there are: good"),
        (vec!["empty.json"], "empty.json is empty; name a file with a delivery"),
        (vec!["list.json"], "list.json holds no notification: its list is empty"),
        (vec!["user.json"], "user.json is no notification: it has no `changeType`; if it is the object itself"),
        (vec!["list.json", "--resource"], "list.json holds no object"),
        (
            vec!["delivery.json", "--resource"],
            "delivery.json has `value`: it is a delivery or a notification; leave --resource out",
        ),
        (vec!["delivery.json", "--fetched", "no.json"], "no.json is no JSON"),
        (vec!["playbooks.toml"], "playbooks are given with --playbooks"),
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
      shows: matches; fetch: resource users/3f6c (not read here: `resource` is null; give the object with --fetched FILE)
        all  = "{\"changeType\":\"updated\",\"more\":{\"x\":1},\"resource\":\"Users/3f6c\",\"resourceData\":{\"@odata.type\":\"#Microsoft.Graph.User\",\"id\":\"3f6c\",\"own\":[1]},\"subscriptionExpirationDateTime\":null,\"subscriptionId\":\"b\"}"
        name = ""
        → action 1, trigger_export: an export of all jobs at most every 60 s
    Item 2: missed: no playbook's affair; what was missed would be looked up
    Item 3: dropped: it has neither a `changeType` nor a `lifecycleEvent` that is known
    Item 4: dropped: it is no object
    4 items: 1 run with 1 action, 1 about a subscription, 2 dropped
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

/// A folder as the checkout is where the README's smallest playbook was written into it.
fn checkout() -> (tempfile::TempDir, String) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("a file");
    let smallest = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the smallest playbook");
    let folder = folder(&[("playbooks.toml", &smallest.lines().map(str::trim).collect::<Vec<_>>().join("\n"))]);
    let examples = folder.path().join("examples/playbooks");
    std::fs::create_dir_all(&examples).expect("made");
    for entry in std::fs::read_dir(root.join("examples/playbooks")).expect("a folder").flatten() {
        std::fs::copy(entry.path(), examples.join(entry.file_name())).expect("copied");
    }
    (folder, readme)
}

#[tokio::test]
async fn the_commands_of_the_documents_work_as_they_are_written() {
    let (folder, readme) = checkout();
    let written = readme + &std::fs::read_to_string(example("README.md")).expect("a file");
    let commands: Vec<&str> = written
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("$ ").strip_prefix("indicator-relay playbooks test "))
        .collect();
    assert_eq!(commands.len(), 6, "{commands:?}");
    for command in commands {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let (code, out, err) = run(&arguments, &[], folder.path()).await;
        let told = out.contains(": matches; ") || out.contains("no playbook's affair");
        assert!(
            code == 0 && told && err.lines().all(|line| line.contains(": warning: there is no secret `TC_")),
            "{command}\n{out}{err}"
        );
    }
}

#[tokio::test]
async fn a_secret_that_is_not_here_is_stood_for_by_its_name_and_one_that_is_here_is_judged() {
    let (folder, _) = checkout();
    let of = async |url: &str| run(&["examples/playbooks/user-updated.json"], &[("TC_PLAYBOOK_URL", url)], folder.path()).await;
    let (code, out, err) = of("").await;
    assert!(code == 0 && out.contains("→ action 1, webhook: POST to <TC_PLAYBOOK_URL>: {"), "{out}");
    assert!(out.contains("(cut; --json shows all)"), "{out}");
    assert_eq!(
        err,
        "playbooks.toml:13:14: warning: there is no secret `TC_PLAYBOOK_URL` here; where this is to run, set it, or the vault's secret `tc-playbook-url`\n"
    );
    for (url, expected) in [("hunter2", "it is no address"), ("https://10.0.0.1/hunter2", "within a private network")] {
        let (code, out, err) = of(url).await;
        let refused = err.contains("the address in the secret `TC_PLAYBOOK_URL` is refused: ") && err.contains(expected);
        assert!(code == 2 && refused && !(out + &err).contains("hunter2"), "{err}");
    }
    let (code, out, err) = of("https://tc.example.com/hunter2").await;
    assert!(code == 0 && err.is_empty() && out.contains("<TC_PLAYBOOK_URL>") && !out.contains("hunter2"), "{out}{err}");
}

#[tokio::test]
async fn how_the_object_would_be_read_is_said() {
    let one =
        |change: &str| format!(r#"{{"changeType": "{change}", "resource": "users/3f6c", "resourceData": {{"id": "3f6c"}}}}"#);
    let document = SHOWS.replace("[\"updated\"]", "[\"updated\", \"deleted\"]");
    let unread = format!("{document}\n[playbook.fetch]\nmode = \"none\"\n");
    let folder = folder(&[
        ("changed.json", &one("updated")),
        ("gone.json", &one("deleted")),
        ("new.json", &one("created")),
        ("user.json", r#"{"displayName": "Jane"}"#),
        ("playbooks.toml", &document),
        ("none.toml", &unread),
    ]);
    for (arguments, expected) in [
        (
            &["changed.json"][..],
            "fetch: resource users/3f6c (not read here: `resource` is null; give the object with --fetched FILE)",
        ),
        (&["changed.json", "--fetched", "user.json"], "fetch: resource users/3f6c (--fetched stands for it)"),
        (&["gone.json"], "fetch: none (there is nothing left to read: `resource` is null)"),
        (&["new.json"], "shows: does not match: it waits for updated, deleted; this is created"),
        (&["changed.json", "--playbooks", "none.toml"], "shows: matches; fetch: none\n"),
        (&["changed.json", "--playbooks", "none.toml", "--fetched", "user.json"], "fetch: none (--fetched has no effect)"),
    ] {
        let (code, out, err) = run(arguments, &[], folder.path()).await;
        assert!(code == 0 && out.contains(expected), "{arguments:?}: {out}{err}");
    }
}
