//! The options of every verb that takes a store on another machine.

use std::path::PathBuf;
use std::time::Duration;

/// How a store behind a URL is reached. Nothing here is used for a store that is a directory.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options for a store that is a URL")]
pub struct Reach {
    /// Read the token from this file, which others must not be able to read; else it is taken from FLOE_TOKEN, else from floe's credentials file
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Trust the certificates (PEM) in this file, instead of those that this machine trusts
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Show this certificate (PEM) to a server that asks who connects
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// The private key (PEM) of --client-cert
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Move at most so many bytes a second, as in `500K` or `10M`
    #[arg(long, value_name = "RATE", value_parser = size)]
    pub limit_rate: Option<u64>,
    /// Give up waiting after so long a silence, as in `30s`, and try again
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Try again so often when the other side cannot be reached or breaks off
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(..=100))]
    pub retries: u32,
    /// Send the token over plain http, too, where others on the way can read it
    #[arg(long)]
    pub insecure: bool,
    /// The floe on the other side of ssh:// [default: floe]; which ssh is used here can be set by FLOE_SSH
    #[arg(long, value_name = "COMMAND", default_value = "floe", hide_default_value = true)]
    pub ssh_floe: String,
}

/// Further places that have the same content.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Options for a store that is a URL")]
pub struct Mirrors {
    /// Another URL with the same content, for when the first cannot be reached; may be given many times
    #[arg(long, value_name = "URL")]
    pub mirror: Vec<String>,
}

/// `10M`, `500K`, `1G`, `4096`: the units of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1u64),
        "k" | "kb" | "kib" => Some(1 << 10),
        "m" | "mb" | "mib" => Some(1 << 20),
        "g" | "gb" | "gib" => Some(1 << 30),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .ok_or_else(|| "must be over 0, as in `4096`, `500K`, `10M` or `1G`".to_owned())
}

/// `30s`, `5min`, `90d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("4096", Some(4096)),
            ("500K", Some(500 << 10)),
            ("10M", Some(10 << 20)),
            ("10MiB", Some(10 << 20)),
            ("1g", Some(1 << 30)),
            ("0", None),
            ("0M", None),
            ("-1", None),
            ("M", None),
            ("", None),
            ("1.5M", None),
            ("10X", None),
            ("18446744073709551615K", None),
            ("1é", None),
        ] {
            assert_eq!(size(text).ok(), want, "{text}");
        }
    }
}
