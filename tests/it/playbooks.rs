//! Playbooks from outside: documents with mistakes, the shipped examples, and what they make of notifications.

use indicator_relay::app::App;
use indicator_relay::functions::{FUNCTIONS, Trigger};
use indicator_relay::notifications::item::{ChangeType, Event, Item, Origin};
use indicator_relay::notifications::wanted::Wanted;
use indicator_relay::platform::secret::Secret;
use indicator_relay::playbooks::evaluate::{Context, Evaluated, RunError};
use indicator_relay::playbooks::keys::{KEYS, Key, Scope};
use indicator_relay::playbooks::{FetchMode, Known, Loaded, Playbook, Severity, load, load_knowing, markdown, schema};
use proptest::prelude::*;
use serde_json::{Value, json};

fn example(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/playbooks").join(name);
    std::fs::read_to_string(path).expect("an example")
}

fn of(text: &str) -> Loaded {
    load(text, &|name| name.starts_with("TC_"))
}

/// Without a mistake.
fn good(text: &str) -> Vec<Playbook> {
    let loaded = of(text);
    assert_eq!(loaded.problems, [], "{text}");
    loaded.playbooks
}

fn lines(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(ToString::to_string).collect()
}

/// The one playbook with these further lines, each where its table is.
fn with(source: &str, fetch: &str, rest: &str) -> String {
    format!(
        "version = 1\n[profile.guide]\ncode = 201\n[[playbook]]\nname = \"p\"\n[playbook.source]\n{source}\n[playbook.fetch]\n{fetch}\n{rest}\n\
         [[playbook.action]]\nkind = \"trigger_export\"\n"
    )
}

fn told(text: &str) -> String {
    lines(&of(text)).join("\n")
}

#[test]
fn no_action_puts_into_a_queue_that_is_ours() {
    let to = |queue: &str| {
        let text = with("resource = \"users\"\nchange_types = [\"updated\"]", "", "");
        told(&text.replace("kind = \"trigger_export\"", &format!("kind = \"queue\"\nqueue = \"{queue}\"")))
    };
    let own: Vec<&str> = FUNCTIONS
        .iter()
        .filter_map(|function| match function.trigger {
            Trigger::Queue { queue, .. } => Some(queue),
            _ => None,
        })
        .collect();
    assert_eq!(own.len(), 3);
    for queue in own {
        assert!(to(queue).contains("is a queue of Indicator Relay itself"), "{queue}: {}", to(queue));
        assert!(to(&format!("{queue}-poison")).contains("is a queue of Indicator Relay itself"), "{queue}");
    }
    assert_eq!(to("graph-items"), "");
}

#[test]
fn a_filter_may_hold_an_address() {
    let resource = "communications/onlineMeetings?$filter=JoinWebUrl eq 'https://teams.example/l/1'";
    let loaded = of(&with(&format!("resource = \"{resource}\"\nchange_types = [\"updated\"]"), "", ""));
    assert!(!loaded.problems.iter().any(|problem| problem.severity == Severity::Error), "{:?}", lines(&loaded));
    assert_eq!(loaded.playbooks[0].source.resource, resource);
}

/// Composed after the vendor page "changeNotification resource type" and its samples.
fn user_changed() -> Item {
    let data = json!({
        "@odata.type": "#Microsoft.Graph.User", "@odata.id": "Users/3f6c2a10-0000-4000-8000-000000000001",
        "id": "3f6c2a10-0000-4000-8000-000000000001", "organizationId": "c0ff0000-0000-4000-8000-000000000000",
        "eventTime": "2026-06-01T09:30:00.1234567Z", "sequenceNumber": 637_000_000_000_000_001_i64
    });
    item(Origin::Graph, ChangeType::Updated, "Users/3f6c2a10-0000-4000-8000-000000000001", &data)
}

fn item(origin: Origin, change: ChangeType, resource: &str, data: &Value) -> Item {
    let notification = json!({
        "subscriptionId": "7d0c0000-0000-4000-8000-000000000000", "changeType": change.name(), "resource": resource,
        "tenantId": "c0ff0000-0000-4000-8000-000000000000", "resourceData": data, "clientState": "NEVER"
    });
    let Value::Object(notification) = notification else { panic!("an object") };
    Item {
        subscription: "7d0c0000-0000-4000-8000-000000000000".to_owned(),
        tenant: Some("c0ff0000-0000-4000-8000-000000000000".to_owned()),
        resource: Some(resource.to_owned()),
        notification,
        ..Item::new(origin, "2026-06-01T09:30:01Z".parse().expect("a time"), Event::Change(change))
    }
}

/// Composed after the vendor page "alert resource type" (security).
fn alert() -> Value {
    json!({
        "@odata.type": "#microsoft.graph.security.alert", "id": "da637551227677560813_-961444813", "severity": "high",
        "status": "new", "title": "Suspicious \"execution\" of {hidden} file", "description": "A file was hidden, then started.",
        "alertWebUrl": "https://security.microsoft.com/alerts/da637551227677560813_-961444813",
        "mitreTechniques": ["T1564.001", "T1204"],
        "evidence": [
            {"@odata.type": "#microsoft.graph.security.deviceEvidence", "verdict": "unknown", "deviceDnsName": "pc-7.example.com"},
            {"@odata.type": "#microsoft.graph.security.ipEvidence", "verdict": "malicious", "ipAddress": "198.51.100.7"},
            {"@odata.type": "#microsoft.graph.security.ipEvidence", "verdict": "suspicious", "ipAddress": "203.0.113.9"},
            {"@odata.type": "#microsoft.graph.security.fileEvidence", "verdict": "malicious",
             "fileDetails": {"sha256": "5e2bf57d3f40c4b6df69daf1936cb766f832374b4fc0259a7cbff06e2f70f269"}}
        ]
    })
}

fn alert_polled() -> Item {
    let mut item = item(
        Origin::Poll,
        ChangeType::Created,
        "security/alerts_v2/da637551227677560813_-961444813",
        &json!({"id": "da637551227677560813_-961444813", "@odata.type": "#microsoft.graph.security.alert"}),
    );
    item.object = Some(alert());
    item
}

fn evaluate(playbook: &Playbook, item: &Item) -> Evaluated {
    assert!(playbook.matches(item, None));
    playbook.evaluate(&Context { item, resource: item.object.as_ref(), attempt: 0 }).expect("evaluates")
}

/// One line for each variable and each action.
fn shown(evaluated: &Evaluated) -> String {
    let variables = evaluated.variables.iter().map(|(name, value)| format!("{name} = {}", value.json()));
    let actions = evaluated.actions.iter().map(|action| serde_json::to_string(action).expect("JSON"));
    variables.chain(actions).collect::<Vec<_>>().join("\n")
}

#[test]
fn ten_mistakes_are_ten_problems_each_at_its_place() {
    let text = r#"version = 1
verzion = 2

[profile.guide]
code = 404
headers = { X-One = "a\r\nb" }

[[playbook]]
name = "bad"
when = "resource.@odata.type"

  [playbook.source]
  resource = "users"
  change_types = ["created", "changed"]

  [playbook.select]
  string = { title = "lenght(resource.title)" }

  [[playbook.action]]
  kind = "webhook"
  url = "http://tc.example.com/x"
  body = "template"
  template = { t = "{titel}" }

  [[playbook.action]]
  kind = "queue"
  queue = 7

[[playbook]]
name = "good"
source = { resource = "groups", change_types = ["deleted"] }
action = [{ kind = "queue", queue = "group-items" }]
"#;
    let loaded = of(text);
    insta::assert_snapshot!(lines(&loaded).join("\n"), @r#"
    2:1: `verzion` is no key here; did you mean `version`?
    5:8: `code` is 404; it takes a whole number from 200 to 299
    6:21: the header `X-One` holds a line break, control or non-ASCII character; leave it out
    10:8: the expression `when` is refused: line 1, column 10 of the expression: expected identifier, '*', '{', '[', '&', or '[?', found `@`; `@` is an operator: write "@odata.type" in double quotes, or `meta.odataType`
    14:19: "created" never comes for a user; it has "updated", "deleted" (a new user is `updated`, and so is a soft deletion)
    14:30: `change_types` is "changed"; it takes a list of "created", "updated", "deleted"
    17:22: the expression `title` is refused: line 1, column 7 of the expression: there is no function `lenght`; did you mean `length`?
    21:9: `url` is refused: it is plain http, which anyone on the way can read; use https, or set `allow_plain_http`
    23:14: there is no variable `titel`; did you mean `title`?
    27:11: `queue` is a whole number; it takes the name of a queue: 3 to 63 of a-z, 0-9, `-`
    "#);
    assert_eq!(loaded.problems.len(), 10);
    let names: Vec<&str> = loaded.playbooks.iter().map(|playbook| playbook.name.as_str()).collect();
    assert_eq!(names, ["good"], "a bad playbook does not stop the others");
}

#[test]
fn each_rule_of_a_source_is_told_with_what_to_do() {
    let cases = [
        (
            with("resource = \"users\"\nchange_types = [\"created\"]", "", ""),
            "\"created\" never comes for a user; it has \"updated\", \"deleted\"",
        ),
        (with("resource = \"security/alerts_v2\"\nchange_types = [\"updated\"]", "", ""), "set kind = \"poll\""),
        (with("kind = \"poll\"\nresource = \"users\"\nchange_types = [\"updated\"]", "", ""), "cannot be polled"),
        (with("resource = \"security/alerts?$filter=x\"\nchange_types = [\"updated\"]", "", ""), "allow_retired = true"),
        (
            with("resource = \"users\"\nchange_types = [\"updated\"]\ninclude_resource_data = true", "", ""),
            "cannot come with notifications",
        ),
        (with("resource = \"users/x/messages\"\nchange_types = [\"updated\"]\ninclude_resource_data = true", "", ""), "$select="),
        (with("resource = \"me/messages\"\nchange_types = [\"updated\"]", "", ""), "write `users/{id}`"),
        (with("resource = \"https://graph.microsoft.com/v1.0/users\"\nchange_types = [\"updated\"]", "", ""), "whole address"),
        (with("resource = \"users/../groups\"\nchange_types = [\"updated\"]", "", ""), "`..`"),
        (with("resource = \"communications/presences/x\"\nchange_types = [\"updated\"]", "", ""), "signed-in user"),
        (
            with("resource = \"users\"\nchange_types = [\"updated\"]\nexpiration_minutes = 42000", "", ""),
            "lives 41760 minutes at most",
        ),
        (
            with("resource = \"chats/x/messages\"\nchange_types = [\"updated\"]\nlifecycle = false", "", ""),
            "Microsoft Teams needs",
        ),
        (with("resource = \"users\"\nchange_types = [\"updated\"]\nprofile = \"giude\"", "", ""), "did you mean `guide`?"),
        (with("resource = \"users\"\nchange_types = []", "", ""), "`change_types` is empty"),
        (with("resource = \"users\"\nchange_types = [\"updated\"]", "mode = \"delta\"", ""), "\"delta\" is for drives and lists"),
        (with("resource = \"drives/x/root\"\nchange_types = [\"updated\"]", "mode = \"resource\"", ""), "use mode = \"delta\""),
        (with("resource = \"users\"\nchange_types = [\"updated\"]", "select = \"id&x=y\"", ""), "names of properties"),
        (with("resource = \"users\"\nchange_types = [\"updated\"]", "select = \"id,,displayName\"", ""), "names of properties"),
        (
            with("resource = \"users/{id}/messages\"\nchange_types = [\"updated\"]", "", ""),
            "put the user's id in place of `{id}`",
        ),
        (
            with("resource = \"teams('{team-id}')/channels/c/messages\"\nchange_types = [\"updated\"]", "", ""),
            "put the team's id in place of `{team-id}`",
        ),
        (with("resource = \"{resource}\"\nchange_types = [\"updated\"]", "", ""), "put the id itself in place of `{resource}`"),
        (with("resource = \"/v1.0/users\"\nchange_types = [\"updated\"]", "", ""), "write only what follows the version"),
        (
            with("resource = \"graph.microsoft.com/beta/users\"\nchange_types = [\"updated\"]", "", ""),
            "write only what follows the version",
        ),
    ];
    for (text, expected) in cases {
        let loaded = of(&text);
        let errors: Vec<String> =
            loaded.problems.iter().filter(|problem| problem.severity == Severity::Error).map(ToString::to_string).collect();
        assert!(errors.len() == 1 && errors[0].contains(expected), "{expected}: {errors:#?}");
        assert!(loaded.playbooks.is_empty());
    }
}

#[test]
fn what_is_too_large_is_told_with_what_can_be_left_out() {
    let object = json!({"note": "x".repeat(5_000_000)});
    let mut large = user_changed();
    large.notification.insert("note".to_owned(), object["note"].clone());
    for (source, fetch, expected) in [
        ("resource = \"users\"", "resource", "fetch less with `fetch.select`"),
        ("resource = \"users\"", "none", "it comes that large, and no playbook can take it"),
        (
            "resource = \"users/u/messages?$select=id\"\ninclude_resource_data = true",
            "none",
            "ask for less with `$select` in `source.resource`",
        ),
    ] {
        let text = format!(
            "version = 1\n[[playbook]]\nname = \"p\"\n[playbook.source]\n{source}\nchange_types = [\"updated\"]\n\
             [playbook.fetch]\nmode = \"{fetch}\"\n[[playbook.action]]\nkind = \"trigger_export\"\n"
        );
        let loaded = load(&text, &|_| true);
        let told = |item: &Item, resource: Option<&Value>| {
            let error = loaded.playbooks[0].evaluate(&Context { item, resource, attempt: 0 }).expect_err("too large").to_string();
            error.split_once("; expressions take at most 4194304; ").expect("the limit").1.to_owned()
        };
        assert_eq!(told(&user_changed(), Some(&object)), expected);
        assert!(told(&large, None).starts_with("it comes that large"));
    }
}

#[test]
fn warnings_do_not_stop_a_playbook() {
    for (source, fetch, expected) in [
        ("resource = \"security/alerts?$filter=x\"\nchange_types = [\"updated\"]\nallow_retired = true", "", "has retired"),
        ("resource = \"usres\"\nchange_types = [\"updated\"]", "", "did you mean `users`?"),
        ("resource = \"users?$filter=\"\nchange_types = [\"updated\"]", "", "the `$filter` is empty"),
        ("resource = \"users?$filter=x eq\"\nchange_types = [\"updated\"]", "", "a value is missing"),
        ("resource = \"users?$filter=x eq 'a\"\nchange_types = [\"updated\"]", "", "a quote `'` without its other one"),
        ("resource = \"users?$filter=(x eq ')'\"\nchange_types = [\"updated\"]", "", "a parenthesis without its other one"),
        ("resource = \"teams\"\nchange_types = [\"updated\"]", "", "does not say which changes"),
        ("kind = \"poll\"\nresource = \"security/incidents\"\nchange_types = [\"updated\"]\nlifecycle = true", "", "no effect"),
        (
            "kind = \"poll\"\nresource = \"security/incidents\"\nchange_types = [\"updated\"]",
            "mode = \"resource\"",
            "comes along",
        ),
    ] {
        let loaded = of(&with(source, fetch, ""));
        let told = lines(&loaded);
        assert!(told.len() == 1 && told[0].contains("warning: ") && told[0].contains(expected), "{told:?}");
        assert_eq!(loaded.playbooks.len(), 1);
    }
}

#[test]
fn each_rule_of_an_action_is_told_with_what_to_do() {
    let action = |lines: &str| {
        format!(
            "version = 1\n[[playbook]]\nname = \"p\"\nsource = {{ resource = \"users\", change_types = [\"updated\"] }}\nselect = {{ string = {{ a = \"resource.a\" }}, string_array = {{ ips = \"resource.b\" }} }}\n[[playbook.action]]\n{lines}\n"
        )
    };
    for (lines, expected) in [
        ("kind = \"web_hook\"", "did you mean \"webhook\"?"),
        ("kind = \"webhook\"", "needs `url` or `url_secret`"),
        ("kind = \"webhook\"\nurl = \"https://a.example\"\nurl_secret = \"TC_URL\"", "leave one out"),
        ("kind = \"webhook\"\nurl_secret = \"NOT_THERE\"", "there is no secret `NOT_THERE`"),
        ("kind = \"webhook\"\nurl_secret = \"https://a.example/hunter2\"", "never its value"),
        ("kind = \"webhook\"\nurl = \"https://10.0.0.1/x\"", "allow_private_address"),
        (
            "kind = \"webhook\"\nurl = \"https://a.example\"\nauth = \"basic\"\nusername_secret = \"TC_U\"",
            "needs `password_secret`",
        ),
        ("kind = \"webhook\"\nurl = \"https://a.example\"\nheaders = { A = \"b\\nc\" }", "line break"),
        ("kind = \"webhook\"\nurl = \"https://a.example\"\nbody = \"template\"", "needs `template`"),
        (
            "kind = \"webhook\"\nurl = \"https://a.example\"\nheaders = { authorization = \"Bearer hunter2\" }",
            "use auth = \"header\" with `header_secret`, or auth = \"basic\"",
        ),
        (
            "kind = \"webhook\"\nurl = \"https://a.example\"\nheaders = { X-Api-Key = \"hunter2\" }",
            "warning: `X-Api-Key` looks like a secret, and stands here in the clear; if it is one, use auth = \"header\" with header = \"X-Api-Key\"",
        ),
        ("kind = \"queue\"\nqueue = \"A_b\"", "`queue` takes"),
        ("kind = \"queue\"\nqueue = \"abc\"\nowner = \"x\"", "`owner` is no key here"),
        ("kind = \"threatconnect_indicator\"\nowner = \"o\"\ntype = \"Adress\"\nvalues = \"ips\"", "did you mean \"Address\"?"),
        ("kind = \"threatconnect_indicator\"\nowner = \"o\"\ntype = \"Address\"\nvalues = \"ipps\"", "did you mean `ips`?"),
        ("kind = \"threatconnect_indicator\"\nowner = \"o\"\ntype = \"Host\"\nvalues = \"ips\"\nrating = 6", "from 0 to 5"),
        ("kind = \"threatconnect_case\"\nname = \"{b}\"", "there is no variable `b`"),
        ("kind = \"threatconnect_case\"\nname = \"{a}\"\nseverity = \"Awful\"", "Low, Medium, High and Critical"),
        ("kind = \"threatconnect_case\"\nname = \"{a}\"\nartifacts = [{ type = \"Host\" }]", "`values` is missing"),
        (
            "kind = \"trigger_export\"\n[[playbook.action]]\nkind = \"trigger_export\"\nlabel = \"1\"",
            "another action has the label `1`",
        ),
    ] {
        let told = told(&action(lines));
        assert!(told.lines().count() == 1 && told.contains(expected), "{lines}\n{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn secrets_are_named_as_the_vault_names_them_and_those_at_hand_are_judged() {
    let text = "version = 1\n[[playbook]]\nname = \"p\"\nsource = { resource = \"users\", change_types = [\"updated\"] }\n\
                [[playbook.action]]\nkind = \"webhook\"\nurl_secret = \"TC_URL\"\nauth = \"header\"\nheader_secret = \"TC_KEY\"\n";
    let told = |known: &dyn Fn(&str) -> Known| {
        let loaded = load_knowing(text, known);
        (lines(&loaded).join("\n"), loaded.playbooks.len())
    };
    let of = |url: Known, key: Known| told(&|name| if name == "TC_URL" { url.clone() } else { key.clone() });
    let given = |value: &str| Known::Given(Secret::new(value));
    assert_eq!(of(Known::Kept, Known::Kept), (String::new(), 1));
    assert_eq!(of(given("https://tc.example.com/x"), given("Bearer x")), (String::new(), 1));
    let missing = "7:14: there is no secret `TC_URL`; set it, or the vault's secret `tc-url`".to_owned();
    assert_eq!(of(Known::Missing, Known::Kept), (missing, 0));
    let (told, left) = of(Known::NotHere, Known::Kept);
    assert!(told.starts_with("7:14: warning: there is no secret `TC_URL` here; ") && left == 1, "{told}");
    let refused = "7:14: the address in the secret `TC_URL` is refused: its scheme is `ftp`; use https\n\
                   9:17: what the secret `TC_KEY` holds has a character that no header may hold";
    assert_eq!(of(given("ftp://tc.example.com/hunter2"), given("hunter\n2")), (refused.to_owned(), 0));
}

#[test]
fn a_good_filter_and_a_body_with_variables_are_not_doubted() {
    for filter in ["x", "startswith(displayName,'it''s (')", "not(x eq null)", "isRead+eq+false&$select=id,eq"] {
        good(&with(&format!("resource = \"users?$filter={filter}\"\nchange_types = [\"updated\"]"), "", ""));
    }
    let selected = |select: &str| {
        let text = with("resource = \"users\"\nchange_types = [\"updated\"]", "", select);
        told(&text.replace("kind = \"trigger_export\"", "kind = \"queue\"\nqueue = \"user-items\"\nbody = \"selected\""))
    };
    assert_eq!(selected("[playbook.select.string]\nid = \"resource.id\""), "");
    assert_eq!(
        selected(""),
        "15:1: warning: body = \"selected\" sends `{}`: there is no variable; add some in `[playbook.select]`"
    );
}

#[test]
fn an_unknown_profile_is_told_whatever_else_is_wrong() {
    let source = "resource = \"users\"\nchange_types = [\"updated\"]\nprofile = \"giude\"";
    let text = with(source, "", "").replace("code = 201", "code = 404").replace("trigger_export", "trigger");
    let told = told(&text);
    assert!(told.contains("`code` is 404") && told.contains("did you mean `guide`?") && told.lines().count() == 3, "{told}");
}

#[test]
fn names_are_unique_and_a_subscription_has_one_profile() {
    let one = |name: &str, resource: &str, profile: &str| {
        format!(
            "[[playbook]]\nname = \"{name}\"\nsource = {{ resource = \"{resource}\", change_types = [\"updated\"]{profile} }}\naction = [{{ kind = \"trigger_export\" }}]\n"
        )
    };
    let text = "version = 1\n[profile.x]\n".to_owned()
        + &one("a", "users", ", profile = \"x\"")
        + &one("a", "groups", "")
        + &one("b", "/Users", "")
        + &one("c", "users", ", profile = \"x\"");
    insta::assert_snapshot!(told(&text), @r#"
    8:8: another playbook is called `a`; give each its own name
    13:10: playbook `a` has the same subscription with the profile `x`; one subscription has one profile
    "#);
    assert_eq!(of(&text).playbooks.iter().map(|playbook| playbook.name.clone()).collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn what_cannot_be_parsed_is_told_with_its_place() {
    assert!(told("version = 1\n[[playbook]\n").starts_with("2:12: no TOML: "), "{}", told("version = 1\n[[playbook]\n"));
    assert!(told("{\n  \"version\": 1,\n}").starts_with("3:1: no JSON: "), "{}", told("{\n  \"version\": 1,\n}"));
    // What stands below the header would be there twice in the table above it.
    let spaced = "version = 1\n[profile.a]\ncode = 201\nbody = \"x\"\n[profile.gui de]\ncode = 201\nbody = \"x\"\n";
    assert_eq!(told(spaced), "5:13: no TOML: unclosed table, expected `]`");
    assert_eq!(
        told(""),
        "1:1: `version` is missing in (top): write `version = 1`\n1:1: warning: the document has no `[[playbook]]`"
    );
    assert!(told("version = 2\n").contains("1:11: `version` is 2; it must be 1"));
}

#[test]
fn the_same_document_may_be_json() {
    let toml = good(&example("users.toml"));
    let json = r#"{"version": 1, "defaults": {"max_attempts": 5}, "playbook": [{"name": "user-changes",
        "source": {"resource": "users", "change_types": ["updated", "deleted"]},
        "fetch": {"select": "id,userPrincipalName,accountEnabled", "not_found": "continue"},
        "action": [{"kind": "queue", "queue": "user-items"}]}]}"#;
    assert_eq!(good(json), toml);
    let wrong = json.replace("\"users\"", "7");
    assert_eq!(told(&wrong), "2:32: `resource` is a whole number; it takes a resource of Microsoft Graph, such as `users`");
}

#[test]
fn the_guides_playbook_does_what_the_guide_says() {
    let loaded = of(&example("guide.toml"));
    assert_eq!(loaded.problems, []);
    let profile = &loaded.profiles["guide"];
    assert_eq!((profile.code, profile.headers.len(), profile.body.as_str()), (201, 0, "Accepted"));
    insta::assert_snapshot!(shown(&evaluate(&loaded.playbooks[0], &user_changed())), @r##"
    all = "{\"@odata.id\":\"Users/3f6c2a10-0000-4000-8000-000000000001\",\"@odata.type\":\"#Microsoft.Graph.User\",\"eventTime\":\"2026-06-01T09:30:00.1234567Z\",\"id\":\"3f6c2a10-0000-4000-8000-000000000001\",\"organizationId\":\"c0ff0000-0000-4000-8000-000000000000\",\"sequenceNumber\":637000000000000001}"
    id = "3f6c2a10-0000-4000-8000-000000000001"
    paths = ["Users/3f6c2a10-0000-4000-8000-000000000001"]
    sequence = "637000000000000001"
    type = "#Microsoft.Graph.User"
    {"kind":"queue","queue":"graph-notifications","body":{"json":{"all":"{\"@odata.id\":\"Users/3f6c2a10-0000-4000-8000-000000000001\",\"@odata.type\":\"#Microsoft.Graph.User\",\"eventTime\":\"2026-06-01T09:30:00.1234567Z\",\"id\":\"3f6c2a10-0000-4000-8000-000000000001\",\"organizationId\":\"c0ff0000-0000-4000-8000-000000000000\",\"sequenceNumber\":637000000000000001}","id":"3f6c2a10-0000-4000-8000-000000000001","paths":["Users/3f6c2a10-0000-4000-8000-000000000001"],"sequence":"637000000000000001","type":"#Microsoft.Graph.User"}}}
    "##);
    let wanted = Playbook::wanted(&loaded.playbooks);
    assert_eq!(wanted.len(), 1);
    assert_eq!((wanted[0].resource.as_str(), wanted[0].profile.as_deref(), wanted[0].rich), ("users", Some("guide"), false));
}

#[test]
fn polled_alerts_go_to_a_playbook_of_threatconnect() {
    let playbooks = good(&example("alerts.toml"));
    insta::assert_snapshot!(shown(&evaluate(&playbooks[0], &alert_polled())), @r#"
    hosts = ["pc-7.example.com"]
    ips = ["198.51.100.7","203.0.113.9"]
    severity = "high"
    title = "Suspicious \"execution\" of {hidden} file"
    url = "https://security.microsoft.com/alerts/da637551227677560813_-961444813"
    {"kind":"webhook","address":{"secret":"TC_PLAYBOOK_URL"},"auth":{"basic":{"username_secret":"TC_PLAYBOOK_USER","password_secret":"TC_PLAYBOOK_PASSWORD"}},"headers":[],"body":{"json":{"addresses":["198.51.100.7","203.0.113.9"],"hosts":["pc-7.example.com"],"link":"https://security.microsoft.com/alerts/da637551227677560813_-961444813","received":"2026-06-01T09:30:01Z","summary":"high: Suspicious \"execution\" of {hidden} file"}},"allow_plain_http":false,"allow_private_address":false}
    "#);
    assert_eq!(Playbook::wanted(&playbooks), [], "nothing is subscribed to");
    let mut low = alert_polled();
    low.object = Some(json!({"severity": "low"}));
    let evaluated = evaluate(&playbooks[0], &low);
    assert!(!evaluated.applies && evaluated.actions.is_empty());
}

#[test]
fn changes_of_users_go_to_a_queue() {
    let playbooks = good(&example("users.toml"));
    let playbook = &playbooks[0];
    assert_eq!((playbook.max_attempts, playbook.fetch_for(&user_changed())), (5, FetchMode::Resource));
    let mut gone = user_changed();
    gone.event = Event::Change(ChangeType::Deleted);
    assert_eq!(playbook.fetch_for(&gone), FetchMode::None, "there is nothing left to read");
    insta::assert_snapshot!(shown(&evaluate(playbook, &user_changed())), @r##"{"kind":"queue","queue":"user-items","body":{"json":{"meta":{"attempt":0,"changeType":"updated","odataType":"#Microsoft.Graph.User","origin":"graph","playbook":"user-changes","receivedAt":"2026-06-01T09:30:01Z","tenant":"c0ff0000-0000-4000-8000-000000000000"},"notification":{"changeType":"updated","resource":"Users/3f6c2a10-0000-4000-8000-000000000001","resourceData":{"@odata.id":"Users/3f6c2a10-0000-4000-8000-000000000001","@odata.type":"#Microsoft.Graph.User","eventTime":"2026-06-01T09:30:00.1234567Z","id":"3f6c2a10-0000-4000-8000-000000000001","organizationId":"c0ff0000-0000-4000-8000-000000000000","sequenceNumber":637000000000000001},"subscriptionId":"7d0c0000-0000-4000-8000-000000000000","tenantId":"c0ff0000-0000-4000-8000-000000000000"},"resource":null}}}"##);
}

#[test]
fn what_an_alert_names_becomes_indicators_and_a_case() {
    let playbooks = good(&example("indicators.toml"));
    let evaluated = evaluate(&playbooks[0], &alert_polled());
    insta::assert_snapshot!(shown(&evaluated), @r#"
    hashes = ["5e2bf57d3f40c4b6df69daf1936cb766f832374b4fc0259a7cbff06e2f70f269"]
    id = "da637551227677560813_-961444813"
    ips = ["198.51.100.7"]
    severity = "high"
    techniques = ["T1564.001","T1204"]
    text = "A file was hidden, then started."
    title = "Suspicious \"execution\" of {hidden} file"
    {"kind":"threatconnect_indicator","owner":"Acme Org","indicator_type":"Address","values":["198.51.100.7"],"rating":4,"confidence":85,"tags":["Microsoft Defender","T1564.001","T1204"],"attributes":[["Description","Seen in the alert da637551227677560813_-961444813: Suspicious \"execution\" of {hidden} file"],["Source","Microsoft Graph"]],"security_label":"TLP:AMBER"}
    {"kind":"threatconnect_indicator","owner":"Acme Org","indicator_type":"File","values":["5e2bf57d3f40c4b6df69daf1936cb766f832374b4fc0259a7cbff06e2f70f269"],"rating":null,"confidence":null,"tags":[],"attributes":[["Description","Seen in the alert da637551227677560813_-961444813: Suspicious \"execution\" of {hidden} file"],["Source","Microsoft Graph"]],"security_label":null}
    {"kind":"threatconnect_case","xid":"ir-624d12b45f3604f2a0477bc241a51e04","name":"Suspicious \"execution\" of {hidden} file","status":"Open","severity":"High","description":"A file was hidden, then started.","tags":["Microsoft Defender"],"artifacts":[["IP Address","198.51.100.7"],["File Hash","5e2bf57d3f40c4b6df69daf1936cb766f832374b4fc0259a7cbff06e2f70f269"]],"notes":["Alert da637551227677560813_-961444813, received 2026-06-01T09:30:01Z"]}
    {"kind":"trigger_export","job":null,"coalesce_seconds":300}
    "#);
    let later = Item { received: "2026-06-02T00:00:00Z".parse().expect("a time"), ..alert_polled() };
    let case = |evaluated: &Evaluated| serde_json::to_value(&evaluated.actions[2]).expect("JSON")["xid"].clone();
    assert_eq!(case(&evaluated), case(&evaluate(&playbooks[0], &later)), "one case for each alert");
}

#[test]
fn a_notification_finds_its_playbooks() {
    let of_source = |source: &str| of(&with(source, "", "")).playbooks.remove(0);
    let users = of_source("resource = \"users\"\nchange_types = [\"updated\"]");
    assert!(users.matches(&user_changed(), None));
    let one = of_source("resource = \"users/3f6c2a10-0000-4000-8000-000000000001\"\nchange_types = [\"updated\"]");
    assert!(one.matches(&user_changed(), None));
    let other = of_source("resource = \"users/3f6c2a10-0000-4000-8000-000000000002\"\nchange_types = [\"updated\"]");
    assert!(!other.matches(&user_changed(), None));
    let named = of_source("resource = \"users/jane@example.com/messages\"\nchange_types = [\"created\"]");
    assert!(named.matches(&item(Origin::Graph, ChangeType::Created, "Users/3f6c/Messages/AAMk", &Value::Null), None));
    assert!(!named.matches(&user_changed(), None));

    // A proven group decides, whatever the resource says, and whichever queue it came by.
    let mut proven = user_changed();
    proven.resource = None;
    for queue in ["n", "u"] {
        proven.group = Some(format!("{queue}{}", users.group));
        assert!(users.matches(&proven, None) && !one.matches(&proven, None));
    }
    assert_eq!(Playbook::wanted(std::slice::from_ref(&users))[0].group(), format!("n{}", users.group));

    let alerts = of_source("kind = \"poll\"\nresource = \"security/alerts_v2?$filter=x\"\nchange_types = [\"updated\"]");
    assert!(alerts.matches(&alert_polled(), None), "a new alert was `updated` to the guide's trigger");
    assert!(!users.matches(&alert_polled(), None) && !alerts.matches(&user_changed(), None));
}

#[test]
fn playbooks_with_one_source_share_a_subscription() {
    let one = |name: &str, more: &str| {
        format!(
            "[[playbook]]\nname = \"{name}\"\n{more}\naction = [{{ kind = \"trigger_export\" }}]\n[playbook.source]\nresource = \"users\"\nchange_types = [\"deleted\", \"updated\"]\n"
        )
    };
    let text = "version = 1\n".to_owned()
        + &one("a", "")
        + "expiration_minutes = 600\nlifecycle = false\n"
        + &one("b", "priority = \"urgent\"")
        + "expiration_minutes = 500\n"
        + &one("off", "enabled = false")
        + &one("held", "paused = true");
    let wanted = Playbook::wanted(&good(&text));
    assert_eq!(wanted.len(), 1);
    let shared = &wanted[0];
    assert_eq!(shared.playbooks, ["a", "b", "held"]);
    assert!(shared.urgent && shared.lifecycle && shared.group().starts_with('u'));
    assert_eq!((shared.minutes, shared.change_types.as_slice()), (Some(500), &[ChangeType::Updated, ChangeType::Deleted][..]));
}

fn variables(select: &str, resource: &Value) -> Result<Value, RunError> {
    let text = with("resource = \"users\"\nchange_types = [\"updated\"]", "", &format!("[playbook.select]\n{select}"));
    let playbook = good(&text).remove(0);
    let item = user_changed();
    let evaluated = playbook.evaluate(&Context { item: &item, resource: Some(resource), attempt: 2 })?;
    Ok(Value::Object(evaluated.variables.into_iter().map(|(name, value)| (name, value.json())).collect()))
}

#[test]
fn results_become_text_as_the_reference_says() {
    let resource = json!({"s": "a \"b\"", "e": "", "n": 637_000_000_000_000_001_i64, "f": 1.5, "t": true, "o": {"k": [1, "x", null], "a": "y"}, "l": ["p", null, 2], "none": []});
    let all = "string = { s = 'resource.s', e = 'resource.e', n = 'resource.n', f = 'resource.f', t = 'resource.t', o = 'resource.o', z = 'resource.zz', m = 'meta.attempt' }\n\
               string_array = { l = 'resource.l', one = 'resource.s', none = 'resource.none', os = '[resource.o]', nulls = '[resource.x, resource.y]' }";
    assert_eq!(
        variables(all, &resource).expect("runs"),
        json!({
            "s": "a \"b\"", "e": "", "n": "637000000000000001", "f": "1.5", "t": "true", "o": "{\"a\":\"y\",\"k\":[1,\"x\",null]}", "z": "", "m": "2",
            "l": ["p", "2"], "one": ["a \"b\""], "none": [], "os": ["{\"a\":\"y\",\"k\":[1,\"x\",null]}"], "nulls": []
        })
    );
    let stripped = format!("strip_json = true\n{all}");
    let found = variables(&stripped, &resource).expect("runs");
    assert_eq!((&found["o"], &found["os"], &found["l"]), (&json!("y, 1, x"), &json!(["y, 1, x"]), &json!(["p", "2"])));
    let quoted = variables(&format!("strip_quotes = false\n{all}"), &resource).expect("runs");
    assert_eq!((&quoted["s"], &quoted["e"], &quoted["l"]), (&json!("\"a \\\"b\\\"\""), &json!("\"\""), &json!(["\"p\"", "2"])));
    let strict = |expression: &str| variables(&format!("fail_on_no_results = true\n{expression}"), &resource);
    assert!(strict("string = { e = 'resource.e' }").is_ok(), "an empty text is a result");
    for none in
        ["string = { x = 'resource.zz' }", "string_array = { x = 'resource.none' }", "string_array = { x = '[resource.zz]' }"]
    {
        assert_eq!(strict(none).expect_err("none"), RunError::NoResults { name: "x".to_owned() });
    }
    let failed = variables("string = { x = 'length(resource.n)' }", &resource).expect_err("a type error");
    assert_eq!((failed.reason(), failed.to_string().contains("expects type")), ("expression_failed", true), "{failed}");
}

#[test]
fn secrets_of_a_notification_are_never_shown() {
    let playbook = good(&example("users.toml")).remove(0);
    let item = user_changed();
    let context = playbook.context(&Context { item: &item, resource: None, attempt: 1 });
    assert!(!context.to_string().contains("NEVER"));
    assert_eq!(
        context["meta"],
        json!({
            "playbook": "user-changes", "tenant": "c0ff0000-0000-4000-8000-000000000000", "receivedAt": "2026-06-01T09:30:01Z",
            "origin": "graph", "attempt": 1, "odataType": "#Microsoft.Graph.User", "changeType": "updated"
        })
    );
    assert_eq!(context["resource"], Value::Null);
}

/// A document in which `key` of `scope` is set to `value`, and its line.
fn document_with(key: &Key, value: &str) -> (String, usize) {
    let header = |scope: Scope| match scope {
        Scope::Document => "",
        Scope::Defaults => "[defaults]\n",
        Scope::Profile => "[profile.x]\n",
        Scope::Playbook => "[[playbook]]\n",
        Scope::Source => "[[playbook]]\n[playbook.source]\n",
        Scope::Fetch => "[[playbook]]\n[playbook.fetch]\n",
        Scope::Select => "[[playbook]]\n[playbook.select]\n",
        Scope::Action | Scope::Queue => "[[playbook]]\n[[playbook.action]]\nkind = \"queue\"\n",
        Scope::Webhook => "[[playbook]]\n[[playbook.action]]\nkind = \"webhook\"\n",
        Scope::Indicator => "[[playbook]]\n[[playbook.action]]\nkind = \"threatconnect_indicator\"\n",
        Scope::Case => "[[playbook]]\n[[playbook.action]]\nkind = \"threatconnect_case\"\n",
        Scope::Artifact => "[[playbook]]\n[[playbook.action]]\nkind = \"threatconnect_case\"\n[[playbook.action.artifacts]]\n",
        Scope::TriggerExport => "[[playbook]]\n[[playbook.action]]\nkind = \"trigger_export\"\n",
    };
    let mut text = header(key.scope).to_owned();
    if key.scope == Scope::Action && key.key == "kind" {
        text = text.replace("kind = \"queue\"\n", "");
    }
    if key.key == "template" {
        text += "body = \"template\"\n";
    }
    let line = text.matches('\n').count() + 1;
    (format!("{text}{} = {value}\n", key.key), line)
}

#[test]
fn the_reader_knows_exactly_the_keys_of_the_table() {
    for key in KEYS {
        // No key takes a date: it is read, and refused for what it is.
        let (text, line) = document_with(key, "2026-01-01");
        let found = of(&text);
        let at: Vec<&str> = found
            .problems
            .iter()
            .filter(|problem| problem.line == line && problem.text.contains(key.key))
            .map(|problem| problem.text.as_str())
            .collect();
        assert!(at.len() == 1 && at[0].contains("a date"), "{text}\n{:#?}", found.problems);
        let (text, line) = document_with(&Key { key: "strange", ..**key }, "1");
        let found = of(&text);
        assert!(
            found.problems.iter().any(|problem| problem.line == line && problem.text.contains("`strange` is no key here")),
            "{text}"
        );
    }
}

#[test]
fn the_documents_hold_what_the_table_gives() {
    let readme = example("README.md");
    assert!(readme.contains(markdown().trim()), "the table of keys is not current: run `cargo xtask docs`");
    let current = serde_json::to_string_pretty(&schema()).expect("JSON") + "\n";
    assert_eq!(example("playbooks.schema.json"), current, "run `cargo xtask docs`");
}

#[test]
fn check_has_lines_for_playbooks() {
    let (lines, good) = of(&example("users.toml")).check("users.toml");
    assert_eq!((lines, good), (vec!["ok    playbooks: 1 in users.toml, 1 enabled".to_owned()], true));
    let (lines, good) = of(&example("users.toml").replace("\"users\"", "\"usres\"")).check("users.toml");
    assert!(good && lines[0].starts_with("note  playbooks: users.toml:11:14: `usres` is no resource"), "{lines:?}");
    let wrong = example("users.toml").replace("\"updated\"", "\"created\"");
    let (lines, good) = of(&wrong).check("users.toml");
    assert!(!good && lines.len() == 1 && lines[0].starts_with("FAIL  playbooks: users.toml:"), "{lines:?}");
}

/// The log says with its levels what is left out and what is only doubted, and each once.
#[tokio::test]
async fn mistakes_are_errors_in_the_log_and_a_file_that_cannot_be_read_is_named() {
    let (_guard, lines) = crate::handler::listen();
    let (rig, folder) = (crate::rig::Rig::new().await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("playbooks.toml");
    let text = with("resource = \"usres\"\nchange_types = [\"updated\", \"changed\"]", "", "");
    std::fs::write(&file, text).expect("written");
    let mut around = rig.surroundings(folder.path());
    around.environment.insert("PLAYBOOKS_FILE".to_owned(), file.display().to_string());
    let app = App::open(&around).await.expect("opens");
    app.playbooks.asked().await.expect("read");
    for (level, words) in
        [("WARN", "playbooks.toml:7:12: `usres` is no resource"), ("ERROR", "playbooks.toml:8:28: `change_types` is \"changed\"")]
    {
        let told = crate::handler::line(&lines, |line| line["message"].as_str().is_some_and(|text| text.contains(words))).await;
        assert!(told["level"] == level && !told["message"].to_string().contains("warning"), "{told}");
    }
    around.environment.insert("PLAYBOOKS_FILE".to_owned(), folder.path().display().to_string());
    let error = App::open(&around).await.expect("opens").playbooks.asked().await.expect_err("a folder");
    let expected = format!("the playbooks file `{}` cannot be read: ", folder.path().display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn table_and_schema_are_made_of_the_keys() {
    let page = markdown();
    for key in KEYS {
        assert!(page.contains(&format!("| `{}` |", key.key)), "{}", key.key);
    }
    for guide in [
        "Resource",
        "Change Type",
        "Response Code",
        "Response Header",
        "Response Body",
        "Fail on No Results",
        "Strip Quotes from String Output",
    ] {
        assert!(page.contains(guide), "{guide}");
    }
    let schema = schema();
    assert_eq!(
        schema["properties"]["playbook"]["items"]["properties"]["source"]["required"],
        json!(["resource", "change_types"])
    );
    assert_eq!(
        schema["properties"]["playbook"]["items"]["properties"]["action"]["items"]["oneOf"].as_array().map(Vec::len),
        Some(5)
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        drop(of(&text));
    }

    #[test]
    fn no_value_makes_the_reader_panic(index in 0..KEYS.len(), value in prop::sample::select(vec![
        "1", "-1", "9223372036854775807", "1.5", "\"\"", "\"x\"", "\"{\"", "\"\\r\\n\"", "true", "[]", "[1]", "[\"\"]", "{}", "{ a = 1 }", "{ a = \"b\" }", "[{}]", "[[{ kind = 1 }]]",
    ])) {
        drop(of(&document_with(KEYS[index], value).0));
    }

    #[test]
    fn a_damaged_example_makes_the_reader_panic_never(which in prop::sample::select(vec!["guide.toml", "alerts.toml", "users.toml", "indicators.toml"]), from in 0usize..2_000, length in 0usize..30, with in "[\\[\\]{}\"'=.a1\n]{0,5}") {
        let text = example(which);
        let characters: Vec<char> = text.chars().collect();
        let from = from.min(characters.len());
        let end = (from + length).min(characters.len());
        let damaged: String = characters[..from].iter().copied().chain(with.chars()).chain(characters[end..].iter().copied()).collect();
        let loaded = of(&damaged);
        for playbook in &loaded.playbooks {
            drop(playbook.evaluate(&Context { item: &alert_polled(), resource: Some(&alert()), attempt: 0 }));
        }
    }

    #[test]
    fn no_object_makes_a_run_panic(object in any_json()) {
        for name in ["guide.toml", "alerts.toml", "users.toml", "indicators.toml"] {
            for playbook in good(&example(name)) {
                let mut item = user_changed();
                item.notification.insert("resourceData".to_owned(), object.clone());
                drop(playbook.evaluate(&Context { item: &item, resource: Some(&object), attempt: 0 }));
            }
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys =
        "(id|title|severity|status|evidence|verdict|ipAddress|fileDetails|sha256|mitreTechniques|@odata\\.type|[a-z]{1,3})";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just("high".to_owned()), Just("malicious".to_owned()), ".{0,8}".boxed()].prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn polling(name: &str, more: &str) -> String {
    format!(
        r#"
[[playbook]]
name = "{name}"
{more}
  [playbook.source]
  kind = "poll"
  resource = "security/alerts_v2"
  change_types = ["{}"]
  [[playbook.action]]
  kind = "queue"
  queue = "alerts"
"#,
        if name == "new" { "created" } else { "updated" }
    )
}

#[test]
fn who_polls_for_the_same_shares_what_is_found_and_a_disabled_neighbour_takes_nothing_away() {
    let both = load(&format!("version = 1\n{}{}", polling("new", ""), polling("changed", "")), &|_| true);
    assert_eq!(both.playbooks[0].group, both.playbooks[1].group, "{:?}", both.problems);
    let users = |name: &str, enabled: bool, changes: &str| {
        format!(
            "[[playbook]]\nname = \"{name}\"\nenabled = {enabled}\n[playbook.source]\nkind = \"graph\"\nresource = \"users\"\nchange_types = [{changes}]\n[[playbook.action]]\nkind = \"queue\"\nqueue = \"user-items\"\n"
        )
    };
    let text = |enabled| {
        let (one, other) = (users("one", true, "\"updated\""), users("other", enabled, "\"updated\", \"deleted\""));
        format!("version = 1\n{one}{other}")
    };
    let shared = load(&text(true), &|_| true);
    let mut item = user_changed();
    item.group = Some(format!("n{}", shared.playbooks[0].group));
    assert!(shared.playbooks.iter().all(|playbook| playbook.matches(&item, None)));
    let alone = load(&text(false), &|_| true);
    let mut told = item.clone();
    told.group = Some(format!("n{}", alone.playbooks[0].group));
    assert!(alone.playbooks.iter().all(|playbook| playbook.matches(&told, None)), "what is told to one is held for the other");
    assert_ne!(alone.playbooks[0].group, shared.playbooks[0].group);
    assert!(alone.playbooks[0].matches(&item, None), "the subscription of both lives on for a while");
}

/// On the mail of one user: those of them that see an item of a subscription that no playbook wants as it was made.
#[test]
fn what_a_subscription_tells_that_is_being_replaced_goes_by_what_it_was_made_for() {
    let mail = |name: &str, filter: &str| {
        format!(
            "[[playbook]]\nname = \"{name}\"\n[playbook.source]\nresource = \"users/u/messages{filter}\"\nchange_types = [\"updated\"]\n[[playbook.action]]\nkind = \"queue\"\nqueue = \"mail-items\"\n"
        )
    };
    let text = format!("version = 1\n{}{}{}", mail("all", ""), mail("a", "?$filter=x eq 'a'"), mail("b", "?$filter=x eq 'b'"));
    let mut told = item(Origin::Graph, ChangeType::Updated, "Users/0f/Messages/AAMk", &Value::Null);
    told.group = Some("n0123456789ab".to_owned());
    let see = |text: &str, made_for: Option<(&str, &[&str])>| {
        let loaded = load(text, &|_| true);
        assert!(loaded.playbooks.len() >= 3, "{:?}", loaded.problems);
        let made_for = made_for.map(|(filter, names)| Wanted {
            resource: format!("/Users('u')/Messages{filter}"),
            playbooks: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Playbook::wanted(&loaded.playbooks).remove(0)
        });
        let seeing = loaded.playbooks.iter().filter(|playbook| playbook.matches(&told, made_for.as_ref()));
        seeing.map(|playbook| playbook.name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(see(&text, Some(("?$filter=x eq 'a'", &["a"]))), "a", "other changes are wanted of the same");
    assert_eq!(see(&text, Some(("", &["all", "old"]))), "all");
    assert_eq!(see(&text, Some(("?$filter=x eq 'b'", &["a"]))), "b", "the filter counts, not who had it then");
    assert_eq!(
        see(&text, Some(("?$filter=x eq 'c'", &["b"]))),
        "b",
        "its filter was changed: what it asked for then is not lost"
    );
    assert_eq!(see(&text, Some(("?$filter=x eq 'c'", &["old"]))), "all a b", "nobody can say");
    assert_eq!(see(&text, None), "all a b");
    let off =
        format!("{text}{}", mail("off", "?$filter=x eq 'c'").replace("[playbook.source]", "enabled = false\n[playbook.source]"));
    assert_eq!(see(&off, Some(("?$filter=x eq 'c'", &["off"]))), "off", "it is held for it");
    assert_eq!(see(&off, Some(("?$filter=x eq 'c'", &["b", "off"]))), "b off");
    assert_eq!(see(&off, Some(("?$filter=x eq 'c'", &["b"]))), "b off", "one that is disabled takes nothing away");
    let broken = format!("{text}[[playbook]]\nname = \"old\"\n");
    assert_eq!(see(&broken, Some(("?$filter=x eq 'c'", &["old"]))), "", "it is of the one with the mistake");
    assert_eq!(see(&broken, Some(("?$filter=x eq 'a'", &["a"]))), "a");
}

#[test]
fn only_playbooks_of_the_tenant_that_is_worked_for_are_kept() {
    let mut loaded = load(&format!("version = 1\n{}{}", polling("new", "tenant = \"red\""), polling("changed", "")), &|_| true);
    assert_eq!(loaded.keep_tenant("blue"), ["new"]);
    assert_eq!(loaded.playbooks.len(), 1);
    let mut loaded = load(&format!("version = 1\n{}{}", polling("new", "tenant = \"red\""), polling("changed", "")), &|_| true);
    assert!(loaded.keep_tenant("red").is_empty());
    assert_eq!(loaded.playbooks[0].group, loaded.playbooks[1].group, "two names of one tenant");
}

/// A document with one playbook that is right, and one that has a mistake.
fn beside(mistaken: &str) -> Loaded {
    let right = "[[playbook]]\nname = \"b\"\n[playbook.source]\nresource = \"users\"\nchange_types = [\"updated\"]\n[[playbook.action]]\nkind = \"queue\"\nqueue = \"seen\"\n";
    let loaded = load(&format!("version = 1\n{right}{mistaken}"), &|_| true);
    assert!(loaded.has_errors());
    loaded
}

const MISTAKEN: &str = r#"
[[playbook]]
name = "a"
[playbook.source]
resource = "users"
change_types = ["updated", "deleted"]
[[playbook.action]]
kind = "quue"
"#;

/// Each left out, with what it may want of an update and a deletion of a user, an update of a group, and an alert.
fn wants(loaded: &Loaded) -> Vec<String> {
    let mut user = user_changed();
    user.group = Some(format!("n{}", loaded.playbooks.first().map(|b| b.group.clone()).unwrap_or_default()));
    let gone = Item { event: Event::Change(ChangeType::Deleted), ..user.clone() };
    let group = item(Origin::Graph, ChangeType::Updated, "groups/g", &Value::Null);
    let alert = alert_polled();
    let told = loaded.left_out.iter().map(|left| {
        let items = [("user", &user), ("gone", &gone), ("group", &group), ("alert", &alert)];
        let wanted = items.iter().filter(|(_, item)| left.may_want(item, None)).map(|(name, _)| *name).collect::<Vec<_>>();
        let (name, known) = (left.name.as_deref().unwrap_or("-"), left.known().is_some());
        format!("{name}{} {}", if known { "" } else { "?" }, wanted.join(" "))
    });
    told.collect()
}

#[test]
fn of_a_playbook_that_is_left_out_all_is_known_that_can_be_read() {
    for (from, to, expected) in [
        ("", "", "a user gone"),
        ("name = \"a\"", "name = \"a\"\nwhom = 1", "a user gone"),
        ("name = \"a\"", "name = \"b\"", "-? user gone"),
        ("name = \"a\"", "", "-? user gone"),
        ("\"updated\", ", "\"updatd\", ", "a? user gone"),
        ("change_types = [\"updated\", \"deleted\"]", "", "a? user gone"),
        ("resource = \"users\"", "resource = \"users\"\nkind = \"grph\"", "a? user gone"),
        ("resource = \"users\"", "resource = \"groups\"", "a group"),
        ("resource = \"users\"", "resource = \"security/alerts_v2\"", "a? alert"),
        ("resource = \"users\"", "resource = \"users\"\nkind = \"poll\"", "a? user gone group alert"),
        ("resource = \"users\"", "resource = \"me\"", "a? user gone group alert"),
        ("resource = \"users\"", "resorce = \"users\"", "a? user gone group alert"),
        ("[playbook.source]", "[playbook.sauce]", "a? user gone group alert"),
        ("[[playbook]]", "[[playbok]]", "-? user gone group alert"),
    ] {
        assert_eq!(wants(&beside(&MISTAKEN.replace(from, to))), [expected], "{to}");
    }
    let broken = load(&format!("version = 1\n{MISTAKEN}[[playbook]"), &|_| true);
    assert_eq!(wants(&broken), ["-? user gone group alert"]);
    let of_tomorrow = load(&format!("version = 2\n{MISTAKEN}"), &|_| true);
    assert_eq!(wants(&of_tomorrow), ["-? user gone group alert"]);
    let profile = load("version = 1\n[profile.guide]\ncode = 99\n[defaults]\nattempts = 1\n[palette]\nred = 1\n", &|_| true);
    assert!(profile.has_errors() && wants(&profile).is_empty(), "no playbook is left out: {:?}", profile.problems);
    let off = beside(&MISTAKEN.replace("name = \"a\"", "name = \"a\"\nenabled = false"));
    assert!(!off.left_out[0].enabled && wants(&off) == ["a user gone"]);
    let right = MISTAKEN.replace("kind = \"quue\"", "kind = \"queue\"\nqueue = \"seen\"");
    let mut elsewhere = of(&format!("version = 1\n{}", right.replace("name = \"a\"", "name = \"a\"\ntenant = \"red\"")));
    assert!(elsewhere.left_out.is_empty() && elsewhere.playbooks.len() == 1, "{:?}", elsewhere.problems);
    elsewhere.keep_tenant("blue");
    assert_eq!(wants(&elsewhere), ["a user gone"]);
    assert!(elsewhere.left_out[0].why("p.toml").contains("tenant"));
    let why = |loaded: &Loaded| loaded.left_out[0].why("p.toml");
    assert!(why(&beside(MISTAKEN)).starts_with("p.toml:17:8: `kind` is \"quue\""), "{}", why(&beside(MISTAKEN)));
    assert!(why(&beside(&MISTAKEN.replace("users", "me"))).starts_with("playbook `a` cannot be read: p.toml:14:12: "));
}
