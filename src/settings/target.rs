//! Where a job delivers: which product, by which way, at which address.

use super::cloud::Cloud;
use super::given::{Reader, address_or, list, switch, text};
use super::params::{self, Delivery, Param};
use super::parse;
use crate::platform::identity::Identity;
use crate::sinks::{Target, TargetProduct, defender, graph_ti, sentinel};

/// The target and the scope of its tokens; none if there is a problem with it.
pub(super) fn read_target(
    reader: &mut Reader<'_>,
    cloud: Option<Cloud>,
    identity: Option<&Identity>,
) -> Option<(Target, String)> {
    let product = reader.need(&params::TARGET_PRODUCT, |text| parse::choice(text, &params::TARGET_PRODUCTS));
    let delivery = reader.need(&params::DELIVERY, |text| parse::choice(text, &params::DELIVERIES));
    let tenant = reader.given(&params::MICROSOFT_GRAPH_TENANT_ID).map(|given| given.text.to_owned()).unwrap_or_default();
    let reserve = reader.read(&params::INDICATOR_RESERVE_COUNT, |text| params::INDICATOR_RESERVE_COUNT.shape.whole(text));
    note_reserve(reader, product?, reserve);
    match (product?, delivery?) {
        (TargetProduct::Sentinel, Delivery::Product) => read_sentinel(reader, cloud),
        (TargetProduct::Defender, Delivery::Product) => read_defender(reader, cloud, tenant),
        (product, Delivery::Graph) => read_graph(reader, cloud, tenant, product, identity),
    }
}

fn note_reserve(reader: &mut Reader<'_>, product: TargetProduct, reserve: Option<u64>) {
    match (reserve, product.capacity()) {
        (Some(_), None) => reader.note(format!("INDICATOR_RESERVE_COUNT has no effect at {}", product.name())),
        (Some(reserve), Some(capacity)) if reserve > capacity => reader.note(format!(
            "INDICATOR_RESERVE_COUNT (guide: Indicator Reserve Count) is {reserve}, more than the {capacity} that {} holds: nothing is sent there, but by `export --use-reserve`",
            product.name()
        )),
        _ => {}
    }
}

fn read_sentinel(reader: &mut Reader<'_>, cloud: Option<Cloud>) -> Option<(Target, String)> {
    let workspace_id = reader.need(&params::SENTINEL_WORKSPACE_ID, parse::guid);
    let source_system = reader.need(&params::SENTINEL_SOURCE_SYSTEM, parse::source_system);
    let user_agents = switch(reader, &params::SENTINEL_USER_AGENTS);
    let severity_extension = switch(reader, &params::SENTINEL_SEVERITY_EXTENSION);
    let url = address_or(reader, &params::SENTINEL_URL, cloud.map(|cloud| cloud.sentinel));
    let scope = scope_or(reader, &params::SENTINEL_SCOPE, cloud.map(|cloud| cloud.sentinel_scope));
    let config = sentinel::Config {
        url: url?,
        workspace_id: workspace_id?,
        source_system: source_system?,
        user_agents: user_agents?,
        severity_extension: severity_extension?,
        sharing: 1, // known once all jobs are
    };
    Some((Target::Sentinel(config), scope?))
}

fn read_defender(reader: &mut Reader<'_>, cloud: Option<Cloud>, tenant: String) -> Option<(Target, String)> {
    let mut device_groups = reader.read(&params::DEFENDER_DEVICE_GROUPS, list).unwrap_or_default();
    device_groups.sort();
    device_groups.dedup();
    let file_hashes = reader.need(&params::DEFENDER_FILE_HASHES, |text| parse::choice(text, &params::FILE_HASHES));
    let service = cloud.map(|cloud| cloud.defender);
    if service == Some(None) && reader.given(&params::DEFENDER_URL).is_none() {
        let message =
            "this CLOUD has no documented Defender API: give DEFENDER_URL and DEFENDER_SCOPE, or choose another TARGET_PRODUCT";
        reader.refuse(&params::TARGET_PRODUCT, message.to_owned());
    }
    let service = service.flatten();
    let url = address_or(reader, &params::DEFENDER_URL, service.map(|(url, _)| url));
    let scope = scope_or(reader, &params::DEFENDER_SCOPE, service.map(|(_, scope)| scope));
    let config = defender::Config { url: url?, tenant, device_groups, file_hashes: file_hashes?, sharing: 1 };
    Some((Target::Defender(config), scope?))
}

fn read_graph(
    reader: &mut Reader<'_>,
    cloud: Option<Cloud>,
    tenant: String,
    product: TargetProduct,
    identity: Option<&Identity>,
) -> Option<(Target, String)> {
    let service = cloud.map(|cloud| cloud.graph);
    if matches!(service, Some((_, _, false))) && reader.given(&params::GRAPH_URL).is_none() {
        let message = "`graph` is documented for CLOUD=global only; use DELIVERY=product";
        reader.refuse(&params::DELIVERY, message.to_owned());
    }
    let url = address_or(reader, &params::GRAPH_URL, service.map(|(url, _, _)| url));
    let scope = scope_or(reader, &params::GRAPH_SCOPE, service.map(|(_, scope, _)| scope));
    for row in [&params::DEFENDER_DEVICE_GROUPS, &params::DEFENDER_FILE_HASHES] {
        if product == TargetProduct::Defender && reader.given(row).is_some() {
            reader.note(format!(
                "{} has no effect with DELIVERY=graph: indicators apply to all devices, and all hashes are sent",
                row.key
            ));
        }
    }
    let client_id = match identity? {
        Identity::ClientSecret { client_id, .. } => client_id.clone(),
        Identity::Managed { client_id } => client_id.clone().unwrap_or_default(),
    };
    Some((Target::Graph(graph_ti::Config { url: url?, tenant, client_id, product, sharing: 1 }), scope?))
}

/// The scope given, else the cloud's.
fn scope_or(reader: &mut Reader<'_>, row: &Param, default: Option<&str>) -> Option<String> {
    reader.read(row, text).or_else(|| default.map(str::to_owned))
}
