//! What is said about a setting.

use super::kind::Kind;

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
