//! The generated parts of the documents, from the tables in the code. A test keeps them equal.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use indicator_relay::playbooks;
use indicator_relay::settings::{Format, local_settings_example, render};
use indicator_relay::sinks::target::render_mapping;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

pub(crate) fn write() -> anyhow::Result<()> {
    let readme = root().join("README.md");
    let text = std::fs::read_to_string(&readme).context("failed to read README.md")?;
    let text = put(&text, "settings", &render(Format::Markdown, None))?;
    let text = put(&text, "mapping", &render_mapping())?;
    std::fs::write(&readme, text)?;
    let examples = root().join("examples/playbooks");
    let text = std::fs::read_to_string(examples.join("README.md")).context("failed to read examples/playbooks/README.md")?;
    std::fs::write(examples.join("README.md"), put(&text, "keys", &playbooks::markdown())?)?;
    let schema = serde_json::to_string_pretty(&playbooks::schema())?;
    std::fs::write(examples.join("playbooks.schema.json"), schema + "\n")?;
    std::fs::write(root().join("local.settings.example.json"), local_settings_example())?;
    Ok(())
}

/// Replaces what stands between `<!-- name -->` and `<!-- /name -->`.
fn put(text: &str, name: &str, part: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&begin).with_context(|| format!("the document has no `{}`", begin.trim()))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("the document has no `{end}`"))?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", part.trim()))
}
