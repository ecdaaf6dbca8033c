//! Words for people: sizes, counts, times, and text from outside made safe for a terminal.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::BinaryBytes;

/// `text` with everything that could move the cursor, colour the terminal or reorder letters escaped.
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(unsafe_to_show) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if unsafe_to_show(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

fn unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `1.2 MiB`, or `312 B`.
pub fn bytes(count: u64) -> String {
    if count < 1024 { format!("{count} B") } else { BinaryBytes(count).to_string() }
}

/// `1 file`, `3 files`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `0.42 s`, `3 min 5 s`.
pub fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.2} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

/// `2026-03-01 12:30:59` in UTC. Times that no calendar holds are shown as seconds.
pub fn date(unix_s: u64) -> String {
    // The formatter ends with the year 9999.
    const END: u64 = 253_402_300_800;
    if unix_s >= END {
        return format!("@{unix_s}");
    }
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(unix_s);
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, want) in [
            ("plain/näme 😀.txt", "plain/näme 😀.txt"),
            ("a\nb", "a\\nb"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
        ] {
            assert_eq!(safe(text), want);
        }
    }

    #[test]
    fn dates() {
        for (unix_s, want) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
            (253_402_300_800, "@253402300800"),
            (u64::MAX, "@18446744073709551615"),
        ] {
            assert_eq!(date(unix_s), want);
        }
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(elapsed(Duration::from_millis(420)), "0.42 s");
        assert_eq!(elapsed(Duration::from_secs(185)), "3 min 5 s");
    }
}
