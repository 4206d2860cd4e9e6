//! What is said about a setting, and how one is found by its name.

use super::kind::Kind;
use super::settings::SETTINGS;

/// One setting: everything that is to be said about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SettingDoc {
    /// Name of the environment variable, also in the env file.
    pub name: &'static str,
    /// A second name, which counts where the same source does not have the first.
    pub alias: Option<&'static str>,
    /// Key in the TOML file, with its section.
    pub key: &'static str,
    /// What it means.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the page, which a test writes"))]
    pub meaning: &'static str,
    /// Its default in words. `required` if there is none and it must be set, `none` if it may stay unset.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the page, which a test writes"))]
    pub default: &'static str,
    /// Which values it takes.
    pub kind: Kind,
    /// True if the value is never shown.
    pub secret: bool,
}

pub(super) const REQUIRED: &str = "required";
pub(super) const NONE: &str = "none";

pub(super) const fn setting(
    name: &'static str,
    key: &'static str,
    default: &'static str,
    kind: Kind,
    meaning: &'static str,
) -> SettingDoc {
    SettingDoc { name, alias: None, key, meaning, default, kind, secret: false }
}

pub(super) const fn secret(
    name: &'static str,
    key: &'static str,
    kind: Kind,
    meaning: &'static str,
) -> SettingDoc {
    SettingDoc { name, alias: None, key, meaning, default: NONE, kind, secret: true }
}

pub(super) const fn aliased(doc: SettingDoc, alias: &'static str) -> SettingDoc {
    SettingDoc { alias: Some(alias), ..doc }
}

/// The setting of this name.
pub(super) fn by_name(name: &str) -> Option<&'static SettingDoc> {
    SETTINGS.iter().find(|doc| doc.name == name || doc.alias == Some(name))
}

/// The setting of this TOML key.
pub(super) fn by_key(key: &str) -> Option<&'static SettingDoc> {
    SETTINGS.iter().find(|doc| doc.key == key)
}

/// All names of environment variables.
pub(super) fn names() -> impl Iterator<Item = &'static str> + Clone {
    SETTINGS.iter().flat_map(|doc| [Some(doc.name), doc.alias]).flatten()
}

/// All TOML keys.
pub(super) fn keys() -> impl Iterator<Item = &'static str> + Clone {
    SETTINGS.iter().map(|doc| doc.key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_keys_are_distinct() {
        assert_eq!(names().collect::<BTreeSet<_>>().len(), names().count());
        assert_eq!(keys().collect::<BTreeSet<_>>().len(), keys().count());
    }

    #[test]
    fn a_hint_is_shown_as_it_was_written() {
        for doc in SETTINGS {
            for hint in [doc.kind.to_string(), doc.meaning.to_owned(), doc.default.to_owned()] {
                assert_eq!(crate::base::masking::mask_text(&hint), hint, "{}", doc.name);
            }
        }
    }

    #[test]
    fn a_setting_is_secret_exactly_when_its_name_says_so() {
        for doc in SETTINGS {
            let by_name = crate::base::masking::is_secret_name(doc.name);
            assert_eq!(doc.secret, by_name, "{}", doc.name);
        }
    }
}
