//! The house rules, held over the source text. Each says what to do.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms by floor: a file may name rooms on lower floors only.
const FLOORS: [(&str, u32); 19] = [
    ("indicator", 0),
    ("platform", 1),
    ("storage", 2),
    ("threatconnect", 3),
    ("sinks", 3),
    ("notifications", 3),
    ("graph", 3),
    ("export", 4),
    ("playbooks", 4),
    ("subscriptions", 4),
    ("polling", 4),
    ("actions", 5),
    ("dispatch", 6),
    ("telemetry", 7),
    ("settings", 8),
    ("app", 9),
    ("functions", 10),
    ("standalone", 11),
    ("cli", 12),
];

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 80;

/// Larger than the house allows, each with its reason.
const LARGE_FILES: [(&str, &str); 2] = [
    ("src/settings/params.rs", "the table of all settings: one row each, read beside the guide"),
    ("src/export/flow.rs", "the one loop that holds a read together; its parts share all of its state"),
];

const FORBIDDEN_NAMES: [&str; 7] = ["utils", "common", "helpers", "types", "models", "manager", "service"];

struct Source {
    path: String,
    /// Without the test module at its foot.
    production: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} holds no sources");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            let path = path.strip_prefix(root()).expect("below the root").display().to_string();
            let production = if path.ends_with("/tests.rs") { String::new() } else { production_of(&text) };
            found.push(Source { path, production, text });
        }
    }
}

fn production_of(text: &str) -> String {
    text.split("#[cfg(test)]").next().unwrap_or(text).to_owned()
}

fn room_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    rest.split('/').next().map(|room| room.trim_end_matches(".rs"))
}

fn floor(room: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// Rooms that a file may not name, as `crate::room`.
fn wrong_imports(path: &str, text: &str) -> Vec<String> {
    let Some((room, own)) = room_of(path).and_then(|room| Some((room, floor(room)?))) else { return Vec::new() };
    let named = text.split("crate::").skip(1).filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next());
    let wrong = named.filter(|other| *other != room && floor(other).is_some_and(|floor| floor >= own));
    wrong.map(|other| format!("{path} names crate::{other}")).collect()
}

/// Functions of more lines than allowed: name and length.
fn long_functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let is_function = trimmed.starts_with("fn ")
            || trimmed.contains(" fn ") && trimmed.starts_with("pub")
            || trimmed.starts_with("async fn ");
        if !is_function || trimmed.starts_with("//") {
            continue;
        }
        // What a trait asks for has no body.
        let head = lines[i..].iter().find(|line| line.contains('{') || line.ends_with(';'));
        if head.is_some_and(|line| line.ends_with(';')) {
            continue;
        }
        let indent = line.len() - trimmed.len();
        let end = lines[i..].iter().position(|l| l.trim() == "}" && l.len() - l.trim_start().len() == indent).unwrap_or(0);
        if end + 1 > FUNCTION_LINES {
            long.push((trimmed.split('(').next().unwrap_or(trimmed).to_owned(), end + 1));
        }
    }
    long
}

#[test]
fn imports_point_down() {
    let wrong: Vec<String> = sources("src").iter().flat_map(|source| wrong_imports(&source.path, &source.production)).collect();
    assert!(wrong.is_empty(), "move what is shared to a lower floor, or pass it as an argument:\n{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_stay_small() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().chain(&sources("emulator/src")).chain(&sources("xtask/src")) {
        let lines = source.production.lines().count();
        if lines > FILE_LINES && !LARGE_FILES.iter().any(|(path, _)| *path == source.path) {
            wrong.push(format!("{}: {lines} lines; split it by concern, or give a reason in LARGE_FILES", source.path));
        }
        for (name, lines) in long_functions(&source.production) {
            wrong.push(format!("{}: `{name}` has {lines} lines; split it", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn production_code_knows_nothing_of_tests() {
    for source in sources("src") {
        let switches = source.text.matches("cfg(test)").count();
        let module = source.text.contains("#[cfg(test)]\nmod tests");
        assert_eq!(
            switches,
            usize::from(module),
            "{}: pass clock, client or store as an argument instead of a switch",
            source.path
        );
        let unwraps = source.production.matches(".unwrap()").count();
        assert_eq!(unwraps, 0, "{}: return an error, or `expect` a fact that is visible nearby", source.path);
    }
}

#[test]
fn every_file_says_what_it_is() {
    for source in sources("src").iter().chain(&sources("emulator/src")).chain(&sources("xtask/src")).chain(&sources("tests")) {
        assert!(source.text.starts_with("//! "), "{}: begin with `//!` and what it is", source.path);
        let name = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        assert!(!FORBIDDEN_NAMES.contains(&name), "{}: name it after what it holds", source.path);
    }
}

#[test]
fn the_emulator_is_a_second_opinion() {
    for source in sources("emulator/src") {
        assert!(!source.text.contains("indicator_relay"), "{}: the emulator imports nothing from the product", source.path);
    }
    let manifest = fs::read_to_string(root().join("emulator/Cargo.toml")).expect("a manifest");
    assert!(!manifest.contains("indicator-relay"), "the emulator does not depend on the product");
}

#[test]
fn each_rule_notices() {
    assert_eq!(
        wrong_imports("src/sinks/mod.rs", "use crate::export::Job; use crate::indicator::Kind;"),
        ["src/sinks/mod.rs names crate::export"]
    );
    assert_eq!(wrong_imports("src/threatconnect/mod.rs", "crate::sinks::Sink").len(), 1);
    let long = format!("fn long() {{\n{}}}\n", "    x();\n".repeat(FUNCTION_LINES));
    assert_eq!(long_functions(&long).len(), 1);
    assert_eq!(production_of("a\n#[cfg(test)]\nmod tests { b }"), "a\n");
}
