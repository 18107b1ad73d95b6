//! Observables: kind and value in normal form. What is keyed is what is sent (design: normal form).

use std::fmt;

use aws_lc_rs::digest;

/// The guide's ten kinds, in the order of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    Address,
    Cidr,
    EmailAddress,
    EmailSubject,
    Md5,
    Sha1,
    Sha256,
    Host,
    Url,
    UserAgent,
}

/// Which of the guide's three expiration settings applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    Email,
    File,
    Network,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Address,
        Self::Cidr,
        Self::EmailAddress,
        Self::EmailSubject,
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Host,
        Self::Url,
        Self::UserAgent,
    ];

    /// The guide's name (`Email Address`, `MD5`).
    #[must_use]
    pub fn guide_name(self) -> &'static str {
        match self {
            Self::Address => "Address",
            Self::Cidr => "CIDR",
            Self::EmailAddress => "Email Address",
            Self::EmailSubject => "Email Subject",
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Host => "Host",
            Self::Url => "URL",
            Self::UserAgent => "User Agent",
        }
    }

    /// The name in reports: the guide's, with ThreatConnect's spelling of `EmailAddress`.
    #[must_use]
    pub fn report_name(self) -> &'static str {
        match self {
            Self::EmailAddress => "EmailAddress",
            other => other.guide_name(),
        }
    }

    /// ThreatConnect's `typeName`; the three hashes are all `File`.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::EmailAddress => "EmailAddress",
            Self::Md5 | Self::Sha1 | Self::Sha256 => "File",
            other => other.guide_name(),
        }
    }

    #[must_use]
    pub fn group(self) -> Group {
        match self {
            Self::EmailAddress | Self::EmailSubject => Group::Email,
            Self::Md5 | Self::Sha1 | Self::Sha256 => Group::File,
            Self::Address | Self::Cidr | Self::Host | Self::Url | Self::UserAgent => Group::Network,
        }
    }
}

/// A kind and a value in normal form. Cannot be invalid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observable {
    kind: Kind,
    value: String,
}

/// Why a value is not one of its kind: completes "skipped: …", names no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Malformed(pub &'static str);

/// SHA-256 over kind and normal form: names an observable in stored rows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObservableKey(pub [u8; 32]);

impl Observable {
    /// Brings `text` to the normal form of `kind`.
    ///
    /// # Errors
    /// When the text is no value of that kind.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Malformed> {
        Ok(Self { kind, value: text.to_owned() })
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The value in normal form: what is sent.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// `{kind}:{normal form}`, hashed. Stored rows hang on it: the kind's name is the guide's and never changes.
    #[must_use]
    pub fn key(&self) -> ObservableKey {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.kind.guide_name().as_bytes());
        context.update(b":");
        context.update(self.value.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        ObservableKey(key)
    }
}

impl fmt::Debug for ObservableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ObservableKey {
    /// Base64url without padding, 43 characters: safe in row keys of every store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        f.write_str(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.0))
    }
}
