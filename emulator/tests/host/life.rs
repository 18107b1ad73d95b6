//! Handler processes: start, console, crash, time-out, end.

use std::path::Path;
use std::time::Duration;

use emulator::host::{FunctionsHost, Level, Outcome};
use tempfile::TempDir;

use crate::app::App;

fn alive(pid: u32) -> bool {
    // A process that ended and was not waited for is a zombie.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    state.is_ok_and(|text| !text.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// The port that a handler was told.
fn port(pid: u32) -> u16 {
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("a process");
    let told = environment.split('\0').find_map(|pair| pair.strip_prefix("FUNCTIONS_CUSTOMHANDLER_PORT="));
    told.expect("a port").parse().expect("a number")
}

fn failure(outcome: &Outcome) -> String {
    if let Outcome::Failure(failure) = outcome { failure.to_string() } else { format!("{outcome:?}") }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_gets_the_settings_and_the_hosts_names_and_nothing_else() {
    let app = App::new().queue("Work", "work");
    let mut options = app.options();
    options.settings.insert("MY_SETTING".to_owned(), "its value".to_owned());
    let host = FunctionsHost::start(options).await.unwrap();
    let run = host.invoke_manually("Work", "do:environment").await.unwrap();
    let names: Vec<&str> = run.results.logs[0].lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(
        names,
        [
            "FUNCTIONS_APP_ROOT_PATH",
            "FUNCTIONS_CUSTOMHANDLER_PORT",
            "FUNCTIONS_CUSTOMHANDLER_WORKER_ID",
            "FUNCTIONS_HTTPWORKER_ID",
            "FUNCTIONS_HTTPWORKER_PORT",
            "MY_SETTING",
            "PATH"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn console_lines_get_the_hosts_levels() {
    let app = App::new().queue("Work", "work");
    let host = FunctionsHost::start(app.options()).await.unwrap();
    let lines = host.until(|record| {
        let lines: Vec<(Level, String)> =
            record.lines.iter().filter(|l| l.group.as_deref() == Some("Work")).map(|l| (l.level, l.text.clone())).collect();
        (lines.len() == 3).then_some(lines)
    });
    let mut lines = lines.await;
    lines.sort();
    let line = |level, text: &str| (level, text.to_owned());
    assert_eq!(
        lines,
        [
            line(Level::Information, "to standard output, with a warning"),
            line(Level::Warning, "a Warning to standard error"),
            line(Level::Error, "to standard error"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_restarts_at_once_and_the_third_stops_the_host() {
    let app = App::new().queue("Work", "work");
    let host = FunctionsHost::start(app.options()).await.unwrap();
    for crash in 1..=3 {
        let run = host.invoke_manually("Work", "do:exit 3").await.unwrap();
        assert!(failure(&run.outcome).contains("The response ended prematurely"));
        if crash < 3 {
            let told = |record: &emulator::host::Record| {
                let ends = record.lines.iter().filter(|line| line.text.contains("exited with code 3")).count();
                (ends == crash).then_some(())
            };
            host.until(told).await;
            assert!(host.invoke_manually("Work", "do:ok").await.unwrap().succeeded(), "restarted after crash {crash}");
        }
    }
    let reason = host.until(|record| record.stopped.clone()).await;
    assert!(reason.contains("exceeded restart retry count"), "{reason}");
    assert!(host.said("exited with code 3").await.text.contains("to standard error"));
    let run = host.invoke_manually("Work", "do:ok").await.unwrap();
    assert!(failure(&run.outcome).contains("stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_starts_a_stopped_host_anew() {
    let app = App::new().queue("Work", "work");
    let mut options = app.options();
    options.recycle = true;
    let host = FunctionsHost::start(options).await.unwrap();
    for _ in 0..7 {
        assert!(host.ready().await);
        host.kill("Work").unwrap();
    }
    assert!(host.invoke_manually("Work", "do:ok").await.unwrap().succeeded());
    assert_eq!(host.lines().iter().filter(|line| line.text.contains("exceeded restart retry count")).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_200_is_a_restart_and_exit_0_the_end() {
    let app = App::new().queue("Work", "work");
    let host = FunctionsHost::start(app.options()).await.unwrap();
    assert!(host.ready().await);
    for _ in 0..4 {
        let before = host.pids();
        assert!(!host.invoke_manually("Work", "do:exit 200").await.unwrap().succeeded());
        // Until the end is noticed, the old port refuses.
        while host.pids() == before {
            tokio::task::yield_now().await;
        }
        assert!(host.invoke_manually("Work", "do:ok").await.unwrap().succeeded());
    }
    assert!(!host.invoke_manually("Work", "do:exit 0").await.unwrap().succeeded());
    host.until(|record| record.lines.iter().any(|line| line.text.contains("exited with 0")).then_some(())).await;
    let run = host.invoke_manually("Work", "do:ok").await.unwrap();
    assert!(failure(&run.outcome).contains("Connection refused"));
    assert_eq!(host.until(|record| Some(record.stopped.clone())).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_time_out_kills_the_process_and_all_that_runs_in_it() {
    let app = App::new().queue("Work", "work");
    let mut options = app.options();
    options.function_timeout = Some(Duration::from_millis(600));
    let host = FunctionsHost::start(options).await.unwrap();
    assert!(host.ready().await);
    let before = host.pids()["Work"];
    // Another host sends what runs beside: no limit of its own may end that, however slow the machine is.
    let mut options = app.options();
    options.attach = Some(port(before));
    let other = FunctionsHost::start(options).await.unwrap();
    let hanging = async {
        host.said("hanging").await;
        host.invoke_manually("Work", "do:hang").await
    };
    let (beside, hanging) = tokio::join!(other.invoke_manually("Work", "do:hang"), hanging);
    assert!(failure(&hanging.unwrap().outcome).contains("Timeout value of 600 ms was exceeded"));
    assert!(failure(&beside.unwrap().outcome).contains("The response ended prematurely"));
    assert_eq!(host.ping("Work").await.unwrap(), 200, "it was started again");
    assert!(host.pids()["Work"] != before && !alive(before));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_null_is_told_and_hangs_until_the_time_out() {
    let app = App::new().queue("Work", "work");
    let host = FunctionsHost::start(app.options()).await.unwrap();
    let told = host.until(|record| record.contract_errors.first().cloned());
    let error = tokio::select! {
        run = host.invoke_manually("Work", "do:null") => panic!("{run:?}"),
        error = told => error,
    };
    assert_eq!((error.function.as_str(), &error.invocation), ("Work", &host.invocations()[0].id));
    assert!(error.message.contains("JSON null"), "{}", error.message);
    // The limit is another host's: here nothing may come before the answer.
    let mut options = app.options();
    options.function_timeout = Some(Duration::from_millis(500));
    let host = FunctionsHost::start(options).await.unwrap();
    let run = host.invoke_manually("Work", "do:null").await.unwrap();
    assert!(failure(&run.outcome).contains("Timeout value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_have_processes_of_their_own_which_end_with_the_host() {
    let app = App::new().timer("Tick", "0 0 5 * * *").queue("Work", "work");
    let anonymous = serde_json::json!({"authLevel": "anonymous"});
    let app = app.http("First", &anonymous).http("Second", &anonymous);
    let host = FunctionsHost::start(app.options()).await.unwrap();
    assert!(host.ready().await);
    let pids = host.pids();
    assert_eq!(pids.keys().collect::<Vec<_>>(), ["Tick", "Work", "http"]);
    host.kill("Tick").unwrap();
    host.until(|record| record.lines.iter().any(|line| line.text.contains("exited with code 137")).then_some(())).await;
    assert!(host.ready().await);
    let after = host.pids();
    assert!(after["Tick"] != pids["Tick"] && after["Work"] == pids["Work"]);
    host.stop().await;
    assert!(after.values().all(|pid| !alive(*pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_host_kills_its_handlers() {
    let app = App::new().queue("Work", "work");
    let host = FunctionsHost::start(app.options()).await.unwrap();
    assert!(host.ready().await);
    let pid = host.pids()["Work"];
    drop(host);
    while alive(pid) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_not_ready_in_time_counts_as_a_crash() {
    let app = App::new().queue("Work", "work").host(|json| {
        json["customHandler"]["description"]["defaultExecutablePath"] = serde_json::json!("sleep");
        json["customHandler"]["description"]["arguments"] = serde_json::json!(["60"]);
        json["customHandler"]["initializationTimeout"] = serde_json::json!("00:00:00.2");
    });
    let host = FunctionsHost::start(app.options()).await.unwrap();
    assert!(!host.ready().await);
    host.until(|record| record.stopped.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zip_is_unpacked_into_a_folder_that_nobody_can_write_to() {
    let folder = TempDir::new().unwrap();
    let zip = App::new().queue("Work", "work").zipped(folder.path(), 0o644);
    let mut options = emulator::host::HostOptions::new(&zip);
    let host = FunctionsHost::start(options.clone()).await.unwrap();
    let run = host.invoke_manually("Work", "do:environment").await.unwrap();
    let root = run.results.logs[0].lines().find_map(|line| line.strip_prefix("FUNCTIONS_APP_ROOT_PATH=")).unwrap().to_owned();
    let mode = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777;
    let root = Path::new(&root);
    let modes = ["", "Work", "host.json", "Work/function.json", "handler"].map(|name| mode(&root.join(name)));
    assert_eq!(modes, [0o555, 0o555, 0o444, 0o444, 0o555]);
    host.stop().await;
    assert!(!root.exists());
    // On plans where the platform does not do it, the zip must have made the handler executable.
    options.allow_execution = false;
    let host = FunctionsHost::start(options).await.unwrap();
    assert!(!host.ready().await);
    host.said("failed to start the handler").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_app_is_told() {
    let app = App::new().timer("Tick", "every day").timer("1st", "0 * * * * *").timer("Quiet", "%NotThere%");
    let host = FunctionsHost::start(app.options()).await.unwrap();
    assert!(host.functions().is_empty() && host.pids().is_empty());
    let lines: Vec<String> = host.lines().into_iter().map(|line| line.text).collect();
    assert!(lines[0].starts_with("1st: name the folder") && lines[1].contains("`every day`"), "{lines:?}");
    assert!(lines[2].contains("no functions were found") && lines.len() == 3, "{lines:?}");
    for (change, message) in [("version", "`version`"), ("customHandler", "defaultExecutablePath")] {
        let app = App::new().host(|json| json[change] = serde_json::Value::Null);
        let error = format!("{:#}", FunctionsHost::start(app.options()).await.unwrap_err());
        assert!(error.contains(message), "{error}");
    }
}
