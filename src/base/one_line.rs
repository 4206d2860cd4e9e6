//! Text of others in messages: on one line, and not longer than a person reads.

/// Most characters of one text that a message repeats.
pub(crate) const MOST_CHARS: usize = 4000;

/// `text` with what ends lines, moves cursors or turns the direction of writing escaped, and cut: nobody
/// else's text looks like a line of our own.
pub(crate) fn one_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(MOST_CHARS));
    for (at, (position, c)) in text.char_indices().enumerate() {
        if at == MOST_CHARS {
            shown.push_str(&format!("... ({} more bytes)", text.len() - position));
            break;
        }
        match is_tricky(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

fn is_tricky(c: char) -> bool {
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || separates || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_pass_for_another_line_is_escaped() {
        let forged =
            "no\n2026-01-01T00:00:00Z  INFO all is well\r\u{1b}[2J\0\u{9b}\u{2028}\u{202e}x";
        let shown = one_line(forged);
        assert_eq!(
            shown,
            "no\\n2026-01-01T00:00:00Z  INFO all is well\\r\\u{1b}[2J\\u{0}\\u{9b}\\u{2028}\\u{202e}x"
        );
        for plain in ["", "größe `a/b` — 한글 \u{1f600}", "C:\\n"] {
            assert_eq!(one_line(plain), plain);
        }
    }

    #[test]
    fn what_is_longer_than_anybody_reads_is_cut_and_says_so() {
        let text = "é".repeat(MOST_CHARS + 10);
        let shown = one_line(&text);
        assert!(shown.ends_with("é... (20 more bytes)"), "{}", &shown[shown.len() - 30..]);
        assert_eq!(one_line(&"x".repeat(MOST_CHARS)).len(), MOST_CHARS);
    }
}
