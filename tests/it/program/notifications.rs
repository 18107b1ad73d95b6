//! What `check` and `subscriptions` say of notifications: is Microsoft Graph there, may the app, can the document be read.

use std::sync::Arc;

use emulator::Service;
use emulator::faults::Effect;
use indicator_relay::functions::{Relay, public_router};
use indicator_relay::platform::clock::SystemClock;
use indicator_relay::settings::Settings;
use tokio::net::TcpListener;

use super::{BTreeMap, Session};

/// One that is subscribed to and one that is polled.
const BOTH: &str = r#"
version = 1
[[playbook]]
name = "users"
  [playbook.source]
  resource = "users"
  change_types = ["updated"]
  [[playbook.action]]
  kind = "queue"
  queue = "out-queue"
[[playbook]]
name = "alerts"
  [playbook.source]
  kind = "poll"
  resource = "security/alerts_v2"
  change_types = ["created"]
  [[playbook.action]]
  kind = "queue"
  queue = "out-queue"
"#;

async fn session(playbooks: &str) -> Session {
    let mut session = Session::new(1).await;
    std::fs::write(session.folder.path().join("playbooks.toml"), playbooks).expect("written");
    // Nobody answers there: what `check` says of it is told elsewhere.
    session.environment.insert("PUBLIC_URL".to_owned(), "http://127.0.0.1:9".to_owned());
    session
}

/// One that wants the data with it.
const RICH: &str = r#"
version = 1
[[playbook]]
name = "mail"
  [playbook.source]
  resource = "users/3f6c2a10-0000-4000-8000-000000000001/messages?$select=subject"
  change_types = ["created"]
  include_resource_data = true
  [[playbook.action]]
  kind = "queue"
  queue = "out-queue"
"#;

/// The same, where handshakes are answered.
async fn reachable(playbooks: &str) -> Session {
    let mut session = session(playbooks).await;
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    session.environment.insert("PUBLIC_URL".to_owned(), format!("http://{}", listener.local_addr().expect("bound")));
    let relay = Relay::new(Arc::new(SystemClock::new()), || Box::pin(std::future::pending()));
    tokio::spawn(async move { axum::serve(listener, public_router(&relay)).await });
    session
}

fn lines(page: &str, of: &str) -> Vec<String> {
    page.lines().filter(|line| line.contains(of)).map(str::to_owned).collect()
}

#[tokio::test]
async fn check_asks_microsoft_graph_and_tells_which_permissions_are_granted() {
    let session = session(BOTH).await;
    let (_, out, _) = session.run(&["check"]).await;
    for line in [
        "ok    notifications: Microsoft Graph answers; this app has 0 subscriptions there",
        "ok    notifications: security/alerts_v2 can be read",
        "ok    notifications: users: User.Read.All is granted",
        "ok    notifications: security/alerts_v2: SecurityAlert.Read.All is granted",
    ] {
        assert_eq!(lines(&out, line).len(), 1, "{line}\n{out}");
    }
    session.emulator.world().apps[0].roles.retain(|role| !role.starts_with("User.") && !role.starts_with("SecurityAlert."));
    let (code, out, _) = session.run(&["check"]).await;
    let missing = "FAIL  notifications: users needs User.Read.All, which the app has not been granted; an administrator of the tenant consents";
    assert!(code == 1 && out.contains(missing), "{out}");
    assert_eq!(lines(&out, "FAIL  notifications: security/alerts_v2 needs SecurityAlert.Read.All").len(), 1, "{out}");
    assert_eq!(lines(&out, "FAIL  notifications: failed to poll `security/alerts_v2`").len(), 1, "{out}");
    session.emulator.world().apps[0].roles.push("Directory.Read.All".to_owned());
    let (_, out, _) = session.run(&["check"]).await;
    assert_eq!(lines(&out, "note  notifications: users needs User.Read.All; the app has Directory.Read.All").len(), 1, "{out}");
    session.emulator.world().opaque_tokens = true;
    let (_, out, _) = session.run(&["check"]).await;
    assert_eq!(lines(&out, "note  notifications: users needs User.Read.All").len(), 1, "{out}");
    assert!(!out.contains("granted"), "nobody can know: {out}");
}

#[tokio::test]
async fn check_fails_where_microsoft_graph_cannot_be_reached() {
    let mut session = session(BOTH).await;
    session.environment.insert("GRAPH_URL".to_owned(), "https://localhost:1".to_owned());
    let (code, out, _) = session.run(&["check"]).await;
    assert_eq!(code, 1, "{out}");
    assert_eq!(lines(&out, "FAIL  notifications: failed to list subscriptions at Microsoft Graph").len(), 1, "{out}");
    assert_eq!(lines(&out, "FAIL  notifications: failed to poll `security/alerts_v2`").len(), 1, "{out}");
    assert!(out.contains("Connection refused") && !out.contains("tried again"), "{out}");
}

#[tokio::test]
async fn a_document_that_is_named_and_not_there_is_told() {
    let mut session = Session::new(1).await;
    let (code, out, _) = session.run(&["check"]).await;
    assert!(code == 0 && out.contains("note  playbooks: none (playbooks.toml does not exist)\n"), "{out}");
    session.environment.insert("PLAYBOOKS_FILE".to_owned(), "playbook.toml".to_owned());
    let (code, out, _) = session.run(&["check"]).await;
    assert!(code == 1 && out.contains("FAIL  playbooks: PLAYBOOKS_FILE is `playbook.toml`, which does not exist"), "{out}");

    // A deployment names it before anybody has written one.
    let bicep = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/infra/main.bicep")).expect("a template");
    let given = bicep.split("param playbooksFile string = '").nth(1).and_then(|rest| rest.split('\'').next()).expect("a default");
    let of = |name: &str| {
        let mut environment: BTreeMap<String, String> = session.environment.clone();
        environment.insert("PLAYBOOKS_FILE".to_owned(), name.to_owned());
        Settings::from_map(&environment).expect("settings").notifications.playbooks_given
    };
    assert!(!of(given) && of("playbooks/others.toml"));
}

#[tokio::test]
async fn check_tells_of_a_timer_that_is_too_slow() {
    let mut session = session(BOTH).await;
    let told = "note  notifications: SUBSCRIPTION_SCHEDULE lets more than 10 minutes pass";
    assert!(!session.run(&["check"]).await.1.contains(told));
    session.environment.insert("SUBSCRIPTION_SCHEDULE".to_owned(), "0 0 */2 * * *".to_owned());
    let (_, out, _) = session.run(&["check"]).await;
    assert!(out.contains(told), "{out}");
}

#[tokio::test]
async fn subscriptions_say_what_is_wrong_with_the_document() {
    let one_wrong = BOTH.replace("change_types = [\"created\"]", "change_types = [\"made\"]");
    for (document, code, told) in [
        (one_wrong.as_str(), 1, "some playbooks are left out: mend the mistakes above"),
        ("version = 1\n[[playbook", 2, "no playbook could be read: mend the mistakes above"),
    ] {
        let session = session(document).await;
        for command in ["plan", "list"] {
            let (ended, out, err) = session.run(&["subscriptions", command]).await;
            assert_eq!(ended, code, "{command}\n{out}{err}");
            assert!(err.contains("error: playbooks.toml:") && err.contains(told), "{err}");
            assert!(!out.contains("nothing to do"), "{out}");
        }
        let (ended, out, err) = session.run(&["subscriptions", "apply", "--json"]).await;
        assert!(ended == code && err.contains(told), "{out}{err}");
        let (_, out, _) = session.run(&["subscriptions", "plan", "--json"]).await;
        let planned: serde_json::Value = serde_json::from_str(&out).expect("one document");
        let problems = planned["problems"].as_array().expect("problems");
        assert!(problems.iter().all(|line| line.as_str().is_some_and(|line| line.starts_with("playbooks.toml:"))), "{out}");
        assert!(!problems.is_empty(), "{out}");
    }
}

#[tokio::test]
async fn what_is_not_created_says_why_once_and_what_is_left_is_listed_without_a_document() {
    let mut session = session(BOTH).await;
    let (_, out, _) = session.run(&["subscriptions", "plan"]).await;
    assert!(out.contains("tells of updated; to http://127.0.0.1:9/api/notifications; for users\n"), "{out}");
    let (code, out, _) = session.run(&["subscriptions", "apply"]).await;
    assert!(code == 1 && out.starts_with("users: not created: our own address http://127.0.0.1:9/api/notifications"), "{out}");
    assert_eq!(out.matches("Connection refused").count(), 1, "{out}");
    assert!(!out.contains("tried again"), "{out}");
    std::fs::remove_file(session.folder.path().join("playbooks.toml")).expect("removed");
    session.environment.remove("PUBLIC_URL");
    let (code, out, err) = session.run(&["subscriptions", "list"]).await;
    assert_eq!((code, out.as_str()), (0, "0 subscriptions of this app, 0 of them ours\n"), "{err}");
}

#[tokio::test]
async fn a_playbook_without_a_usable_certificate_is_told_by_every_command() {
    let mut session = reachable(RICH).await;
    let pem = include_str!("../../fixtures/rich/2048-pkcs8.txt");
    let split = pem.find("-----BEGIN CERTIFICATE").expect("a certificate");
    let write = |name: &str, text: &str| std::fs::write(session.folder.path().join(name), text).expect("written");
    write("good.pem", pem);
    write("alone.pem", &pem[split..]);
    write("words.pem", "my certificate");
    std::fs::create_dir(session.folder.path().join("folder")).expect("made");
    for (given, told) in [
        ("", "`mail` (include_resource_data): no subscription can be made without a certificate; set ENCRYPTION_CERTIFICATES"),
        (
            "certs/gone.pem",
            "the certificate `certs/gone.pem` of ENCRYPTION_CERTIFICATES cannot be used: there is no such file; put it",
        ),
        ("folder", "the certificate `folder` of ENCRYPTION_CERTIFICATES cannot be used: it is a folder; name the file"),
        ("alone.pem", "the certificate `alone.pem` of ENCRYPTION_CERTIFICATES cannot be used: it has no private key; put"),
        ("words.pem", "the certificate `words.pem` of ENCRYPTION_CERTIFICATES cannot be used: it is neither PEM nor PKCS#12"),
    ] {
        session.environment.insert("ENCRYPTION_CERTIFICATES".to_owned(), given.to_owned());
        let (code, out, _) = session.run(&["check"]).await;
        let failed = lines(&out, "FAIL");
        assert!(
            code == 1 && failed.len() == 1 && failed[0].starts_with(&format!("FAIL  notifications: {told}")),
            "{given}: {out}"
        );
        let (code, out, err) = session.run(&["subscriptions", "apply"]).await;
        assert!(
            code == 1 && out.contains("ENCRYPTION_CERTIFICATES") && out.ends_with("\n0 of 1 subscription is there\n"),
            "{out}"
        );
        assert_eq!(err.matches(told).count(), 1, "{err}");
    }
    session.environment.insert("ENCRYPTION_CERTIFICATES".to_owned(), "gone.pem|good.pem".to_owned());
    let (code, out, _) = session.run(&["check"]).await;
    assert!(code == 1 && lines(&out, "FAIL").len() == 1 && out.contains("`gone.pem` of ENCRYPTION_CERTIFICATES"), "{out}");
    let (code, out, err) = session.run(&["subscriptions", "apply"]).await;
    assert!(code == 0 && out.ends_with("\n1 of 1 subscription is there\n") && err.contains("`gone.pem`"), "{out}{err}");
    session.environment.insert("ENCRYPTION_CERTIFICATES".to_owned(), "good.pem".to_owned());
    let (code, out, _) = session.run(&["check"]).await;
    assert!(code == 0 && !out.contains("FAIL"), "{out}");
    // Renewing it would be too soon: it lives, so all is done.
    let (code, out, err) = session.run(&["subscriptions", "apply"]).await;
    assert!(code == 0 && !err.contains("ENCRYPTION_CERTIFICATES"), "{out}{err}");
}

#[tokio::test]
async fn a_sign_in_that_fails_is_told_with_its_code_and_once() {
    let login = |status, body: &str| Effect::Status { status, body: body.to_owned(), retry_after: None };
    // As the login host answers, and as something in its place does.
    let terse =
        r#"{"error":"invalid_client","error_description":"AADSTS7000222: The key secret-in-a-text of app 42 has ended."}"#;
    for (effect, told) in [
        (
            login(401, terse),
            "no token: MICROSOFT_GRAPH_CLIENT_SECRET (guide: Microsoft Graph Client Secret) is wrong or has expired (status 401, AADSTS7000222)",
        ),
        (
            login(401, r#"{"error":"invalid_client","error_description":"AADSTS50034: no","error_codes":[50034]}"#),
            "no token: check MICROSOFT_GRAPH_TENANT_ID, MICROSOFT_GRAPH_CLIENT_ID and MICROSOFT_GRAPH_CLIENT_SECRET (status 401, AADSTS50034)",
        ),
        (
            login(
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS50034: no\r\nTrace ID: 1","error_codes":[50034]}"#,
            ),
            "no token: check MICROSOFT_GRAPH_TENANT_ID, MICROSOFT_GRAPH_CLIENT_ID and MICROSOFT_GRAPH_CLIENT_SECRET (status 401, AADSTS50034)",
        ),
    ] {
        let session = session(BOTH).await;
        session.emulator.world().faults.always(Service::Login, effect);
        let (code, out, err) = session.run(&["subscriptions", "list"]).await;
        assert!(code == 1 && !err.contains("secret-in-a-text"), "{out}{err}");
        assert!(err.contains(&format!("failed to list subscriptions at Microsoft Graph: {told}\n")), "{err}");
    }
    let mut session = session(BOTH).await;
    session.environment.insert("LOGIN_URL".to_owned(), "https://localhost:1".to_owned());
    let (_, _, err) = session.run(&["subscriptions", "list"]).await;
    let told =
        "failed to list subscriptions at Microsoft Graph: no token: the login host (LOGIN_URL, CLOUD) could not be reached\n";
    assert!(err.contains(told) && !err.contains("GRAPH_URL"), "{err}");
}
