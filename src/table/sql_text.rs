//! Statements to PostgreSQL with their values in the text. A prepared statement belongs to a connection
//! of the server, and a pooler that lends those for a transaction (PgBouncer) gives each statement
//! another one: what was prepared is not there, or is somebody else's.

/// `sql` with `$1` to `$9` replaced by these values as literals.
///
/// # Errors
/// A value has a zero byte, which PostgreSQL has no literal for.
pub(super) fn with_values(sql: &str, values: &[&str]) -> Result<String, String> {
    let mut text = String::with_capacity(sql.len() + 100 * values.len());
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let digit = after.chars().next().and_then(|c| c.to_digit(10));
        let value = digit.and_then(|digit| values.get((digit as usize).checked_sub(1)?));
        match value {
            Some(value) => {
                push_literal(&mut text, value)?;
                rest = after.get(1..).unwrap_or_default();
            }
            None => return Err(format!("a statement wants a value that is not there: {sql}")),
        }
    }
    text.push_str(rest);
    Ok(text)
}

/// In the form that means the same whatever `standard_conforming_strings` is.
fn push_literal(text: &mut String, value: &str) -> Result<(), String> {
    text.push_str("E'");
    for c in value.chars() {
        match c {
            '\0' => return Err(format!("{value:?} has a zero byte")),
            '\'' => text.push_str("''"),
            '\\' => text.push_str("\\\\"),
            c => text.push(c),
        }
    }
    text.push('\'');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals_that_nothing_in_them_ends() {
        let text = with_values("SELECT $2, $1, $2", &["it's", "a\\'; DROP TABLE t --\n$1"]);
        let evil = "E'a\\\\''; DROP TABLE t --\n$1'";
        assert_eq!(text.unwrap(), format!("SELECT {evil}, E'it''s', {evil}"));
        assert_eq!(with_values("SELECT 1", &[]).unwrap(), "SELECT 1");
    }

    #[test]
    fn what_has_no_literal_is_refused() {
        assert!(with_values("SELECT $1", &["a\0'; DROP TABLE t"]).is_err());
        for sql in ["SELECT $2", "SELECT $0", "SELECT $", "SELECT $x"] {
            assert!(with_values(sql, &["a"]).is_err(), "{sql}");
        }
    }
}
