//! Values that must never be printed.

use std::collections::BTreeMap;
use std::fmt;

use super::masking::{MASK, is_secret_name, mask, mask_uri};

/// A value that is never printed: `Debug` and `Display` show [`MASK`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the client library that needs it. Never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A URI that may carry a password, which `Debug` and `Display` mask.
#[derive(Clone, PartialEq, Eq)]
pub struct Uri(String);

impl Uri {
    /// Wraps a URI as it was written.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The whole URI with its password, for the client that connects to it. Never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Uri {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_uri(&self.0))
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_uri(&self.0))
    }
}

/// Properties for a client library by name. `Debug` masks those whose name says that they are
/// secret, and passwords inside URIs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// Sets a property, replacing an earlier value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// The value of a property, unmasked.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All properties in the order of their names, unmasked: for the client library.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Is it set?
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes a property out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// True if no property is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>, V: Into<String>> Extend<(N, V)> for Properties {
    fn extend<T: IntoIterator<Item = (N, V)>>(&mut self, properties: T) {
        properties.into_iter().for_each(|(name, value)| self.set(name, value));
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Properties {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(properties: T) -> Self {
        let mut all = Self::default();
        all.extend(properties);
        all
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(name, value)| (name, mask(is_secret_name(name), value)));
        f.debug_map().entries(shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_uri_is_shown_without_its_password() {
        let uri = Uri::new("postgres://ice:hunter2@db/c");
        assert_eq!(format!("{uri} {uri:?}"), "postgres://ice:***@db/c postgres://ice:***@db/c");
        assert_eq!(uri.expose(), "postgres://ice:hunter2@db/c");
    }

    #[test]
    fn properties_show_their_secrets_masked_and_give_them_unmasked() {
        let mut properties = Properties::default();
        for name in [
            "sasl.password",
            "SSL.Key.PEM",
            "s3.secret-access-key",
            "s3.session-token",
            "sasl.jaas.config",
            "basic.auth.user.info",
        ] {
            properties.set(name, "hunter2");
        }
        properties.set("proxy", "http://me:hunter2@proxy");
        properties.set("queued.min.messages", "1000");
        let shown = format!("{properties:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(r#""queued.min.messages": "1000""#), "{shown}");
        assert_eq!(properties.get("sasl.password"), Some("hunter2"));
        assert_eq!(properties.iter().count(), 8);
    }
}
