//! The generated parts of the documents are those that the tables in the code give.

use indicator_relay::settings::{Format, local_settings_example, render};
use indicator_relay::sinks::target::render_mapping;

fn file(name: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a file")
}

#[test]
fn the_readme_holds_the_tables_of_the_code() {
    let readme = file("README.md");
    for (name, part) in [("settings", render(Format::Markdown, None)), ("mapping", render_mapping())] {
        assert!(readme.contains(part.trim()), "the {name} table is not current: run `cargo xtask docs`");
    }
}

#[test]
fn the_example_settings_are_current() {
    assert_eq!(file("local.settings.example.json"), local_settings_example(), "run `cargo xtask docs`");
}
