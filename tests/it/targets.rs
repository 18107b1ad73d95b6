//! What the emulated targets hold, told in one language: STIX patterns for observables, and whether an object shows an
//! indicator as it is now.

use emulator::{Indicator, Service, TENANT, WORKSPACE};
use serde_json::Value;

use crate::rig::{DEFENDER, Rig, SENTINEL};

/// A product and the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Sentinel,
    Defender,
    GraphSentinel,
    GraphDefender,
}

impl At {
    /// Settings of all jobs of a rig; a target that can be full leaves so many places.
    pub(crate) fn choose(self, rig: &mut Rig, places: u64) {
        let (product, delivery) = match self {
            Self::Sentinel => (SENTINEL, "product"),
            Self::Defender => (DEFENDER, "product"),
            Self::GraphSentinel => (SENTINEL, "graph"),
            Self::GraphDefender => (DEFENDER, "graph"),
        };
        rig.set("TARGET_PRODUCT", product);
        rig.set("DELIVERY", delivery);
        rig.set("DEFENDER_FILE_HASHES", "all");
        if self.can_be_full() {
            rig.set("INDICATOR_RESERVE_COUNT", &(15_000 - places).to_string());
        }
    }

    pub(crate) fn can_be_full(self) -> bool {
        matches!(self, Self::Defender | Self::GraphDefender)
    }

    pub(crate) fn service(self) -> Service {
        match self {
            Self::Sentinel => Service::Sentinel,
            Self::Defender => Service::Defender,
            Self::GraphSentinel | Self::GraphDefender => Service::Graph,
        }
    }

    /// Live objects with what they are about; one that is there twice is here twice.
    pub(crate) fn live(self, rig: &Rig) -> Vec<(String, Value)> {
        let (world, now) = (rig.emulator.world(), rig.now());
        match self {
            Self::Sentinel => world.live(WORKSPACE, now).values().map(|o| (o.pattern.clone(), o.value())).collect(),
            Self::Defender => {
                let entities = world.at_defender(TENANT, now).into_iter();
                let entities = entities.map(|i| serde_json::to_value(i).expect("JSON"));
                entities
                    .map(|entity| (pattern(&text(&entity, "indicatorType"), &text(&entity, "indicatorValue")), entity))
                    .collect()
            }
            Self::GraphSentinel | Self::GraphDefender => {
                let product = if self == Self::GraphSentinel { "Azure Sentinel" } else { "Microsoft Defender ATP" };
                let entities = world.at_graph(TENANT, product, now).into_iter().map(|o| Value::Object(o.entity.clone()));
                entities
                    .map(|entity| match entity["domainName"].as_str() {
                        Some(name) => (pattern("DomainName", name), entity),
                        None => (pattern(&text(&entity, "fileHashType"), &text(&entity, "fileHashValue")), entity),
                    })
                    .collect()
            }
        }
    }

    /// The object shows this indicator, as it is now, with this action (`Alert` or `Block`).
    pub(crate) fn shows(self, object: &Value, indicator: &Indicator, action: &str) -> bool {
        let owner = format!("ThreatConnect | Owner: {}", indicator.owner);
        let external =
            if self == Self::Sentinel { &object["external_references"][0]["external_id"] } else { &object["externalId"] };
        let number = external.as_str().and_then(|text| text.split('-').nth(1)).unwrap_or_default();
        let list = |name: &str| -> Vec<String> {
            object[name].as_array().into_iter().flatten().filter_map(|l| l.as_str().map(str::to_owned)).collect()
        };
        let confidence = object["confidence"].as_u64() == indicator.confidence.map(u64::from);
        let more = match self {
            Self::Sentinel => {
                let context = object["external_references"][0]["description"].as_str().unwrap_or_default();
                confidence && list("labels") == indicator.tags && context.contains(&format!("Action {action}"))
            }
            Self::Defender => object["action"] == if action == "Alert" { "Audit" } else { "Block" },
            Self::GraphSentinel | Self::GraphDefender => {
                confidence && list("tags") == indicator.tags && object["action"] == action.to_lowercase().as_str()
            }
        };
        more && number == indicator.id.to_string() && object["description"] == owner.as_str()
    }
}

fn text(entity: &Value, name: &str) -> String {
    entity[name].as_str().unwrap_or_default().to_owned()
}

fn pattern(kind: &str, value: &str) -> String {
    let path = match kind {
        "DomainName" => "domain-name:value",
        "FileMd5" | "md5" => "file:hashes.'MD5'",
        "FileSha1" | "sha1" => "file:hashes.'SHA-1'",
        _ => "file:hashes.'SHA-256'",
    };
    format!("[{path} = '{value}']")
}
