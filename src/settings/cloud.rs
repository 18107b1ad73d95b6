//! The addresses of Microsoft's clouds. Each can be overridden by a setting of its own.
//!
//! Sources: "National clouds" of the identity platform; the service pages of Sentinel's upload API and its templates for
//! the government clouds; "Microsoft Defender for Endpoint for US Government customers" (the scope there is its host's: no
//! page says so); the tiIndicator pages list the global cloud only. The upload host of the DoD cloud is taken to be that of the other government cloud: no page says so.

/// One cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cloud {
    pub(super) login: &'static str,
    pub(super) sentinel: &'static str,
    pub(super) sentinel_scope: &'static str,
    /// None: the cloud has no such service that is documented.
    pub(super) defender: Option<(&'static str, &'static str)>,
    /// Address and scope; whether it serves tiIndicators.
    pub(super) graph: (&'static str, &'static str, bool),
    /// What follows `{account}.{service}.` in the addresses of storage accounts.
    pub(super) storage: &'static str,
}

/// The only one that the Functions host finds by the name of an account.
pub(super) const GLOBAL_STORAGE: &str = "core.windows.net";

const GOV_DEFENDER: &str = "https://api-gov.securitycenter.microsoft.us";

/// By the values of `CLOUD`; GCC is part of the global cloud.
pub(super) const CLOUDS: [(&str, Cloud); 4] = [
    (
        "global",
        Cloud {
            login: "https://login.microsoftonline.com",
            sentinel: "https://api.ti.sentinel.azure.com",
            sentinel_scope: "https://management.azure.com/.default",
            // Some of Defender's APIs still check the audience of the older host.
            defender: Some(("https://api.security.microsoft.com", "https://api.securitycenter.microsoft.com/.default")),
            graph: ("https://graph.microsoft.com", "https://graph.microsoft.com/.default", true),
            storage: GLOBAL_STORAGE,
        },
    ),
    (
        "usgov",
        Cloud {
            login: "https://login.microsoftonline.us",
            sentinel: "https://api.ti.sentinel.azure.us",
            sentinel_scope: "https://management.usgovcloudapi.net/.default",
            defender: Some((GOV_DEFENDER, "https://api-gov.securitycenter.microsoft.us/.default")),
            graph: ("https://graph.microsoft.us", "https://graph.microsoft.us/.default", false),
            storage: "core.usgovcloudapi.net",
        },
    ),
    (
        "usgov-dod",
        Cloud {
            login: "https://login.microsoftonline.us",
            sentinel: "https://api.ti.sentinel.azure.us",
            sentinel_scope: "https://management.usgovcloudapi.net/.default",
            defender: Some((GOV_DEFENDER, "https://api-gov.securitycenter.microsoft.us/.default")),
            graph: ("https://dod-graph.microsoft.us", "https://dod-graph.microsoft.us/.default", false),
            storage: "core.usgovcloudapi.net",
        },
    ),
    (
        "china",
        Cloud {
            login: "https://login.partner.microsoftonline.cn",
            sentinel: "https://api.ti.sentinel.azure.cn",
            sentinel_scope: "https://management.chinacloudapi.cn/.default",
            defender: None,
            graph: ("https://microsoftgraph.chinacloudapi.cn", "https://microsoftgraph.chinacloudapi.cn/.default", false),
            storage: "core.chinacloudapi.cn",
        },
    ),
];
