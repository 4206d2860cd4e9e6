//! How a setting is found by its name.

use super::setting::SettingDoc;
use super::settings::SETTINGS;

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
