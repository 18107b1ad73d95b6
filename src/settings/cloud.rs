//! The addresses of Microsoft's clouds. Each can be overridden by a setting of its own.
//!
//! Sources: "National clouds" of the identity platform; the service pages of Sentinel's upload API and its templates for
//! the government clouds. The upload host of the DoD cloud is taken to be that of the other government cloud: no page says so.

/// One cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cloud {
    pub(super) login: &'static str,
    pub(super) sentinel: &'static str,
    pub(super) sentinel_scope: &'static str,
}

/// By the values of `CLOUD`; GCC is part of the global cloud.
pub(super) const CLOUDS: [(&str, Cloud); 4] = [
    (
        "global",
        Cloud {
            login: "https://login.microsoftonline.com",
            sentinel: "https://api.ti.sentinel.azure.com",
            sentinel_scope: "https://management.azure.com/.default",
        },
    ),
    (
        "usgov",
        Cloud {
            login: "https://login.microsoftonline.us",
            sentinel: "https://api.ti.sentinel.azure.us",
            sentinel_scope: "https://management.usgovcloudapi.net/.default",
        },
    ),
    (
        "usgov-dod",
        Cloud {
            login: "https://login.microsoftonline.us",
            sentinel: "https://api.ti.sentinel.azure.us",
            sentinel_scope: "https://management.usgovcloudapi.net/.default",
        },
    ),
    (
        "china",
        Cloud {
            login: "https://login.partner.microsoftonline.cn",
            sentinel: "https://api.ti.sentinel.azure.cn",
            sentinel_scope: "https://management.chinacloudapi.cn/.default",
        },
    ),
];
