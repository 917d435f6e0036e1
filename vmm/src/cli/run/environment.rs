//! The environment of a container's first process: Docker's defaults, the image's, files, flags; the last word wins.

use oci_spec::image;

use super::RunError;
use super::args::RunArgs;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `NAME=VALUE` for each variable.
pub fn compose(args: &RunArgs, image: &image::Config, hostname: &str) -> Result<Vec<String>, RunError> {
    let mut environment = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if args.tty {
        environment.push("TERM=xterm".to_owned());
    }
    let of_image = image.env().clone().unwrap_or_default();
    for variable in of_image.into_iter().filter(|variable| variable.contains('=')) {
        set(&mut environment, variable);
    }
    for path in &args.env_file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RunError::EnvFile { path: path.clone(), source })?;
        for line in text.lines().map(str::trim_start) {
            if !line.is_empty() && !line.starts_with('#') {
                add(&mut environment, line)?;
            }
        }
    }
    for variable in &args.env {
        add(&mut environment, variable)?;
    }
    Ok(environment)
}

/// Adds what the user gave: a variable, or the name of one that this process has.
pub fn add(environment: &mut Vec<String>, given: &str) -> Result<(), RunError> {
    let name = given.split('=').next().unwrap_or_default();
    if name.is_empty() || given.contains('\0') {
        return Err(RunError::Variable(given.to_owned()));
    }
    match (given.contains('='), std::env::var(name)) {
        (true, _) => set(environment, given.to_owned()),
        (false, Ok(value)) => set(environment, format!("{name}={value}")),
        // As with Docker: a variable that this process does not have is taken away.
        (false, Err(_)) => environment.retain(|other| other.split('=').next() != Some(name)),
    }
    Ok(())
}

fn set(environment: &mut Vec<String>, variable: String) {
    let name = variable.split('=').next().map(str::to_owned);
    environment.retain(|other| other.split('=').next() != name.as_deref());
    environment.push(variable);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_wins_and_a_name_alone_is_passed_on() {
        let mut environment = vec!["A=1".to_owned(), "B=2".to_owned(), "NO_SUCH_VARIABLE=3".to_owned()];
        for given in ["A=4", "PATH", "NO_SUCH_VARIABLE", "C=x=y"] {
            add(&mut environment, given).unwrap();
        }
        let path = format!("PATH={}", std::env::var("PATH").unwrap());
        assert_eq!(environment, ["B=2", "A=4", path.as_str(), "C=x=y"]);
        assert!(add(&mut environment, "=x").is_err());
    }
}
