//! Values that must never be printed, and the masking of those that may be printed in part.

use std::collections::BTreeMap;
use std::fmt;

/// What stands in place of a secret wherever a setting is shown.
pub const MASK: &str = "***";

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

    /// True if no property is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(name, value)| (name, mask(is_secret_name(name), value)));
        f.debug_map().entries(shown).finish()
    }
}

/// `value` as it may be shown: [`MASK`] if it is secret, else without a password inside a URI.
pub(crate) fn mask(secret: bool, value: &str) -> String {
    if secret { MASK.to_owned() } else { mask_uri(value) }
}

/// Does the name of a client library's property say that its value is a secret? Errs on the side
/// of masking.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = ["password", "passphrase", "secret", "credential", "access-key", "access_key"];
    words.iter().any(|word| name.contains(word))
        || name.ends_with("token")
        || name.ends_with("key.pem")
        || name.ends_with("oauthbearer.config")
}

/// Replaces the password of a URI by [`MASK`]: in `scheme://user:password@host`, and in query
/// parameters such as `?password=`. Text that is not a URI comes back as it was.
///
/// Works on the text and not on a parsed URI, because a URI that does not parse is exactly the one
/// that an error message quotes.
pub fn mask_uri(uri: &str) -> String {
    let (scheme, rest) = match uri.find("://") {
        Some(at) => uri.split_at(at + 3),
        None => ("", uri),
    };
    // The last `@`, although a password should escape it and a path may hold one: showing too
    // little is harmless. The query holds its own.
    let (before_query, query) = match rest.rsplit_once('@') {
        // A `?` left of the last `@` is part of an unescaped password, unless no user stands there.
        Some((user, host)) if user.contains(':') => {
            let (host, query) = split_query(host);
            let name = user.split_once(':').map_or("", |(name, _)| name);
            (format!("{name}:{MASK}@{host}"), query)
        }
        _ => {
            let (authority, query) = split_query(rest);
            (authority.to_owned(), query)
        }
    };
    let query = query.map(mask_query).unwrap_or_default();
    format!("{scheme}{before_query}{query}")
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (text, None),
    }
}

fn mask_query(query: &str) -> String {
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, _)) if is_secret_name(name) => format!("{name}={MASK}"),
        _ => parameter.to_owned(),
    });
    format!("?{}", parameters.collect::<Vec<_>>().join("&"))
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
    fn the_password_inside_a_uri_is_masked_and_the_rest_is_kept() {
        let cases = [
            ("postgres://ice:hunter2@db:5432/c", "postgres://ice:***@db:5432/c"),
            ("postgres://ice:hun@ter2@db/c", "postgres://ice:***@db/c"),
            (
                "postgres://ice:hun?ter2@db/c?sslmode=require",
                "postgres://ice:***@db/c?sslmode=require",
            ),
            ("postgres://ice:hun/ter2@db/c", "postgres://ice:***@db/c"),
            ("postgres://db/c?user=ice&password=hunter2", "postgres://db/c?user=ice&password=***"),
            ("https://catalog:8181/v1?token=hunter2", "https://catalog:8181/v1?token=***"),
            ("postgres://ice@db/c", "postgres://ice@db/c"),
            ("sqlite://catalog.db?mode=rwc", "sqlite://catalog.db?mode=rwc"),
            ("ice:hunter2@db", "ice:***@db"),
            ("plain text", "plain text"),
        ];
        for (uri, shown) in cases {
            assert_eq!(
                format!("{} {:?}", Uri::new(uri), Uri::new(uri)),
                format!("{shown} {shown}")
            );
            assert_eq!(Uri::new(uri).expose(), uri);
        }
    }

    #[test]
    fn properties_show_their_secrets_masked_and_give_them_unmasked() {
        let mut properties = Properties::default();
        for name in ["sasl.password", "ssl.key.pem", "s3.secret-access-key", "s3.session-token"] {
            properties.set(name, "hunter2");
        }
        properties.set("proxy", "http://me:hunter2@proxy");
        properties.set("queued.min.messages", "1000");
        let shown = format!("{properties:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(r#""queued.min.messages": "1000""#), "{shown}");
        assert_eq!(properties.get("sasl.password"), Some("hunter2"));
        assert_eq!(properties.iter().count(), 6);
    }
}
