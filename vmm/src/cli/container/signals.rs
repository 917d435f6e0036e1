//! Signals by their names and numbers.

use nix::sys::signal::Signal;

/// The number of `text`: "9", "KILL", "SIGKILL", in any case.
pub fn parse(text: &str) -> Result<i32, String> {
    let unknown = || format!("there is no signal '{text}'; a name as in signal(7), or a number, is expected");
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse::<Signal>().map(|signal| signal as i32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["9", "KILL", "SIGKILL", "sigkill", "kill"] {
            assert_eq!(parse(text), Ok(9), "{text}");
        }
        for text in ["", "0", "65", "-1", "NOSUCH"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
