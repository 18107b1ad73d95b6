//! The log of the handler's processes, as a person reads it: one calm line per event that matters.

use emulator::host::{Level, Line};
use indicator_relay::functions::EVENTS;
use serde_json::Value;

/// A run's numbers and what they are called; zeros are left out.
const NUMBERS: [(&str, &str); 8] = [
    ("accepted", "accepted"),
    ("unchanged", "unchanged"),
    ("duplicate", "duplicate"),
    ("skipped", "skipped"),
    ("rejected", "rejected"),
    ("over_cap", "over cap"),
    ("unanswered", "unanswered"),
    ("withdrawn", "withdrawn"),
];

/// What a line of the log says.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    /// To show.
    pub text: String,
    /// The fields of a run that is complete; what is not so is told in a line of its own.
    pub finished: Option<Value>,
    /// Nothing that follows would be right.
    pub fails: bool,
}

/// A line of the host or of a handler; none: nothing that a person waits for.
pub(super) fn read(line: &Line) -> Option<Said> {
    let plain = |text: &str, fails| Some(Said { text: text.to_owned(), finished: None, fails });
    let Some(function) = &line.group else {
        return plain(&shown("", "host", &line.text), line.level == Level::Error).filter(|_| line.level > Level::Information);
    };
    let Ok(said) = serde_json::from_str::<Value>(&line.text) else {
        return plain(&shown("", function, &line.text), line.level == Level::Error);
    };
    let word = |key: &str| said[key].as_str().unwrap_or_default();
    // What tells of seconds is a run that waits, and so does who reads this.
    if word("event").is_empty() && said.get("seconds").is_none() && line.level == Level::Information {
        return None;
    }
    let time = word("time").get(11..19).unwrap_or_default();
    let text = match word("event") {
        "tick.finished" => match said["enqueued"].as_u64().unwrap_or(0) {
            0 => "no run is due".to_owned(),
            1 => "one run is due: a message is put into the queue".to_owned(),
            count => format!("{count} runs are due: a message each is put into the queue"),
        },
        "run.finished" => finished(&said),
        _ => word("message").to_owned(),
    };
    let is_complete = word("event") == "run.finished" && said["complete"] == true;
    Some(Said {
        text: shown(time, function, &text),
        fails: line.level == Level::Error,
        finished: is_complete.then(|| fields(&said)),
    })
}

/// One line of the console.
pub(super) fn shown(time: &str, who: &str, text: &str) -> String {
    format!("  {time:8}  {who:16}  {text}")
}

fn finished(said: &Value) -> String {
    let number = |key: &str| said[key].as_u64().unwrap_or(0);
    let numbers = NUMBERS.iter().filter(|(key, _)| number(key) > 0).map(|(key, word)| format!("{} {word}", number(key)));
    let numbers: Vec<String> = numbers.collect();
    let tenths = number("duration_ms").div_ceil(100);
    let word = |key: &str| said[key].as_str().unwrap_or_default();
    let head = format!(
        "{}: {} run, {}, {}.{} s: {} indicators, {} observables",
        word("job"),
        word("mode"),
        if said["complete"] == true { "complete" } else { "not complete" },
        tenths / 10,
        tenths % 10,
        number("indicators"),
        number("observables"),
    );
    if numbers.is_empty() { head } else { format!("{head}\n{}", shown("", "", &numbers.join(", "))) }
}

/// The event's own fields.
fn fields(said: &Value) -> Value {
    let event = EVENTS.iter().filter(|event| said["event"] == event.name);
    event.flat_map(|event| event.fields).map(|field| ((*field).to_owned(), said[*field].clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(group: Option<&str>, level: Level, text: &str) -> Line {
        Line { group: group.map(str::to_owned), level, text: text.to_owned() }
    }

    #[test]
    fn a_run_that_is_over_is_told_with_the_numbers_that_it_has() {
        let text = json!({
            "time": "2026-03-01T10:12:13.140Z", "level": "INFO", "event": "run.finished", "job": "one", "mode": "full",
            "complete": true, "indicators": 3, "observables": 4, "accepted": 4, "withdrawn": 0, "duration_ms": 1_240,
            "invocation_id": "x",
        });
        let said = read(&line(Some("RunExport"), Level::Information, &text.to_string())).unwrap();
        assert_eq!(
            said.text,
            "  10:12:13  RunExport         one: full run, complete, 1.3 s: 3 indicators, 4 observables\n                              4 accepted"
        );
        let finished = said.finished.unwrap();
        assert_eq!((said.fails, &finished["accepted"], finished.get("invocation_id")), (false, &json!(4), None));
    }

    #[test]
    fn what_fails_is_shown_and_ends_the_demo() {
        let incomplete = json!({"event": "run.finished", "complete": false}).to_string();
        let incomplete = read(&line(Some("RunExport"), Level::Information, &incomplete)).unwrap();
        assert!(incomplete.text.contains("not complete") && incomplete.finished.is_none() && !incomplete.fails);
        assert!(read(&line(Some("RunExport"), Level::Error, "no JSON")).unwrap().fails);
        assert!(read(&line(None, Level::Error, "the host stops")).unwrap().fails);
        assert!(!read(&line(None, Level::Warning, "a queue is missing")).unwrap().fails);
        assert_eq!(read(&line(None, Level::Information, "indexed")), None);
        assert_eq!(read(&line(Some("RunExport"), Level::Information, r#"{"message": "withdrawing rows"}"#)), None);
        let waits = r#"{"message": "the run waits", "seconds": 60}"#;
        assert!(read(&line(Some("RunExport"), Level::Information, waits)).unwrap().text.ends_with("the run waits"));
    }
}
