//! Names of several parts with dots between them. A part that has a dot itself stands in backticks.

/// The parts of a name, in their order; `None` where one is empty, or a backtick stands alone.
pub(crate) fn parts(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = match rest.strip_prefix('`') {
            Some(quoted) => quoted.split_once('`')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        let is_plain = part == part.trim() && !part.is_empty() && !part.contains('`');
        if !is_plain {
            return None;
        }
        parts.push(part.to_owned());
        if after.is_empty() {
            return Some(parts);
        }
        rest = after.strip_prefix('.')?;
    }
}

/// One part as it is written.
pub(crate) fn part(name: &str) -> String {
    if name.contains('.') { format!("`{name}`") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_in_backticks_may_have_dots() {
        let of = |text| parts(text).map(|parts| parts.join("|"));
        assert_eq!(of("a.b.c").as_deref(), Some("a|b|c"));
        assert_eq!(of("db.`orders.v1`").as_deref(), Some("db|orders.v1"));
        assert_eq!(of("`a.b`.`c.d`.e").as_deref(), Some("a.b|c.d|e"));
        assert_eq!(of("`a`.b").as_deref(), Some("a|b"));
        for wrong in
            ["", ".", "a.", ".a", "a..b", "`a", "a`", "`a`b", "``.a", "a.` b`", "a. b", "a`.`b"]
        {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        for name in ["a", "orders.v1"] {
            assert_eq!(parts(&part(name)).unwrap(), [name]);
        }
    }
}
