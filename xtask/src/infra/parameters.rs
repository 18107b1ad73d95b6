//! The product's settings as Bicep parameters: written from its table, so that neither can be changed without the other.
//!
//! Written are the part of `infra/main.bicep` between its two markers, and `infra/modules/job.bicep`.

use anyhow::Context as _;
use indicator_relay::settings::{Format, render};
use serde::Deserialize;

/// Settings that follow from the resources: no parameters.
pub(crate) const FROM_RESOURCES: [(&str, &str); 9] = [
    ("JOBS", "the names in the parameter `jobs`"),
    ("KEY_VAULT_URL", "the vault"),
    ("MANAGED_IDENTITY_CLIENT_ID", "the app's identity"),
    ("AzureWebJobsStorage__blobServiceUri", "the storage account"),
    ("AzureWebJobsStorage__queueServiceUri", "the storage account"),
    ("AzureWebJobsStorage__tableServiceUri", "the storage account"),
    ("AzureWebJobsStorage__credential", "the way the app signs in to storage"),
    ("AzureWebJobsStorage__clientId", "the app's identity"),
    ("APPLICATIONINSIGHTS_CONNECTION_STRING", "Application Insights"),
];

/// Settings that an app in Azure never has, each with the reason. Secret ones are not listed: they are in the vault.
pub(crate) const NEVER_SET: [(&str, &str); 3] = [
    ("STATE_FILE", "the app keeps its state in Azure Storage"),
    ("AzureWebJobsStorage", "a connection string holds a key"),
    ("AzureWebJobsStorage__accountName", "names the host of the global cloud only; the three addresses hold in every cloud"),
];

/// Parameters that have a better default here than in the table.
const DEFAULTS: [(&str, &str); 2] =
    [("MICROSOFT_GRAPH_TENANT_ID", "tenant().tenantId"), ("PLAYBOOKS_FILE", "'playbooks/playbooks.toml'")];

const BEGIN: &str = "// <settings> Written by `cargo xtask infra --update` from the product's table, in its order.\n";
const END: &str = "// </settings>\n";

/// One row of the product's table, as it shows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) guide_name: Option<String>,
    pub(crate) required: String,
    pub(crate) accepts: String,
    pub(crate) default: Option<String>,
    pub(crate) secret: bool,
    pub(crate) per_job: bool,
    pub(crate) help: String,
}

/// The product's table, in its order.
pub(crate) fn settings() -> anyhow::Result<Vec<Setting>> {
    serde_json::from_str(&render(Format::Json, None)).context("failed to read the table of settings")
}

/// What a value may be, in Bicep's words.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Text,
    Choice(Vec<String>),
    /// Of any text, or of these.
    List(Vec<String>),
    Whole {
        from: u64,
        to: Option<u64>,
    },
}

impl Setting {
    pub(crate) fn is_parameter(&self) -> bool {
        let excepted = FROM_RESOURCES.iter().chain(&NEVER_SET).any(|(key, _)| *key == self.key);
        !self.secret && !excepted
    }

    /// `API_USER` is `apiUser`.
    pub(crate) fn parameter(&self) -> String {
        let mut words = self.key.split('_').map(str::to_lowercase);
        let first = words.next().unwrap_or_default();
        let upper = |word: String| word.get(..1).map(str::to_uppercase).unwrap_or_default() + word.get(1..).unwrap_or_default();
        words.fold(first, |name, word| name + &upper(word))
    }

    fn description(&self) -> String {
        let name = self.guide_name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        let required = if self.required.is_empty() { String::new() } else { format!(" Required: {}.", self.required) };
        let takes = match self.kind() {
            Kind::Text => format!(" Takes {}.", self.accepts),
            // The type says it.
            Kind::Choice(_) | Kind::List(_) | Kind::Whole { .. } => String::new(),
        };
        format!("{name}{}{takes}{required}", self.help)
    }

    /// The table describes its shapes in words; these are the words.
    fn kind(&self) -> Kind {
        let quoted = || self.accepts.split('`').skip(1).step_by(2).map(str::to_owned);
        if let Some(range) = self.accepts.strip_prefix("a whole number from ") {
            let mut numbers = range.split_whitespace().filter_map(|word| word.parse().ok());
            if let Some(from) = numbers.next() {
                return Kind::Whole { from, to: numbers.next() };
            }
        }
        if let Some(before) = self.accepts.strip_suffix(": a JSON array, or separated by `|`") {
            let names = before.strip_prefix("any of ").map(|_| before.split('`').skip(1).step_by(2).map(str::to_owned));
            return Kind::List(names.map(Iterator::collect).unwrap_or_default());
        }
        if self.accepts.starts_with("`on` or `off` (also") {
            return Kind::Choice(vec!["on".to_owned(), "off".to_owned()]);
        }
        let without_names = self.accepts.split('`').step_by(2).collect::<String>();
        if self.accepts.starts_with('`') && without_names.chars().all(|c| " ,or".contains(c)) {
            return Kind::Choice(quoted().collect());
        }
        Kind::Text
    }

    /// As a parameter of the template.
    fn declaration(&self) -> String {
        let (mut decorators, mut kind, mut default) = (String::new(), "string".to_owned(), "''".to_owned());
        match self.kind() {
            Kind::Text => {}
            Kind::Choice(mut names) => {
                if self.default.is_none() && self.required != "yes" {
                    names.insert(0, String::new());
                }
                decorators = format!("@allowed([{}])\n", names.iter().map(|name| text(name)).collect::<Vec<_>>().join(", "));
            }
            Kind::List(names) => (kind, default) = (list(&names), "[]".to_owned()),
            Kind::Whole { from, to } => {
                decorators = range(from, to, "");
                (kind, default) = ("int?".to_owned(), String::new());
            }
        }
        if self.required == "yes" {
            (kind, default) = (kind.trim_end_matches('?').to_owned(), String::new());
        }
        match &self.default {
            Some(given) if kind.starts_with("int") => (kind, default) = ("int".to_owned(), given.clone()),
            Some(given) => default = text(given),
            None => {}
        }
        if let Some((_, better)) = DEFAULTS.iter().find(|(key, _)| *key == self.key) {
            (*better).clone_into(&mut default);
        }
        let default = if default.is_empty() { String::new() } else { format!(" = {default}") };
        // The linter takes the name of a secret for one.
        let lint = if self.key.ends_with("_SECRET_NAME") { "#disable-next-line secure-secrets-in-params\n" } else { "" };
        let description = text(&self.description());
        format!("@description({description})\n{decorators}{lint}param {} {kind}{default}\n", self.parameter())
    }

    /// As a member of a job's settings.
    fn member(&self) -> String {
        let (mut decorators, kind) = match self.kind() {
            Kind::Text => (String::new(), "string".to_owned()),
            Kind::Choice(names) => (String::new(), union(&names)),
            Kind::List(names) => (String::new(), list(&names)),
            Kind::Whole { from, to } => (range(from, to, "  "), "int".to_owned()),
        };
        decorators.insert_str(0, &format!("  @description({})\n", text(&self.description())));
        format!("{decorators}  {}: {kind}?\n", self.key)
    }
}

fn text(plain: &str) -> String {
    format!("'{}'", plain.replace('\\', "\\\\").replace('\'', "\\'").replace("${", "\\${"))
}

fn union(names: &[String]) -> String {
    format!("({})", names.iter().map(|name| text(name)).collect::<Vec<_>>().join(" | "))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "string[]".to_owned() } else { format!("{}[]", union(names)) }
}

fn range(from: u64, to: Option<u64>, indent: &str) -> String {
    let most = to.map(|to| format!("{indent}@maxValue({to})\n")).unwrap_or_default();
    format!("{indent}@minValue({from})\n{most}")
}

/// `template` with its part between the markers written anew.
///
/// # Errors
/// The template has no markers.
pub(crate) fn with_parameters(template: &str, settings: &[Setting]) -> anyhow::Result<String> {
    let (before, rest) = template.split_once(BEGIN).with_context(|| format!("main.bicep has no line `{}`", BEGIN.trim()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("main.bicep has no line `{}`", END.trim()))?;
    let parameters: Vec<&Setting> = settings.iter().filter(|setting| setting.is_parameter()).collect();
    let declarations: Vec<String> = parameters.iter().map(|setting| setting.declaration()).collect();
    let members: Vec<String> = parameters.iter().map(|setting| format!("  {}: {}", setting.key, setting.parameter())).collect();
    Ok(format!("{before}{BEGIN}\n{}\nvar settings = {{\n{}\n}}\n{END}{after}", declarations.join("\n"), members.join("\n")))
}

/// The type of a job, as a file.
pub(crate) fn job_type(settings: &[Setting]) -> String {
    let members: String = settings.iter().filter(|s| s.is_parameter() && s.per_job).map(Setting::member).collect();
    format!(
        "// A job: its name, and what it takes instead of the settings for all jobs.\n\
         // Written by `cargo xtask infra --update` from the product's table, in its order.\n\n\
         @export()\n@sealed()\ntype Job = {{\n  @description('`a` to `z`, digits and `-`, a letter first.')\n  \
         name: string\n\n  settings: JobSettings\n}}\n\n@sealed()\ntype JobSettings = {{\n{members}}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_the_table_has_a_type_of_its_own() {
        let all = settings().expect("a table");
        let kind = |key: &str| all.iter().find(|setting| setting.key == key).expect("a row").kind();
        assert_eq!(kind("API_USER"), Kind::Text);
        assert_eq!(kind("MINIMUM_THREAT_RATING"), Kind::Text);
        assert_eq!(kind("WITHDRAW_LIMIT"), Kind::Text);
        assert_eq!(kind("ACTION_TO_TAKE"), Kind::Choice(vec!["Alert".to_owned(), "Block".to_owned()]));
        assert_eq!(kind("WITHDRAW"), Kind::Choice(vec!["on".to_owned(), "off".to_owned()]));
        assert_eq!(kind("OWNERS"), Kind::List(Vec::new()));
        assert!(matches!(kind("INDICATOR_TYPES"), Kind::List(names) if names.len() == 10));
        assert_eq!(kind("EXPIRATION_DAYS_FILE"), Kind::Whole { from: 1, to: Some(3650) });
        assert_eq!(kind("FALSE_POSITIVE_THRESHOLD"), Kind::Whole { from: 0, to: None });
    }

    #[test]
    fn names_of_parameters_follow_from_keys() {
        let all = settings().expect("a table");
        let names: Vec<String> = all.iter().map(Setting::parameter).collect();
        assert!(names.contains(&"onlySendIndicatorsModifiedSinceLastRun".to_owned()));
        assert!(names.contains(&"apiUser".to_owned()));
    }
}
