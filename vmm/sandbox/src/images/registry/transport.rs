//! Connections to registries: certificates, time limits, plain HTTP where that is allowed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::RegistryOptions;

/// A connection must be there in this time,
const CONNECT: Duration = Duration::from_secs(15);
/// an answer begin in this,
const ANSWER: Duration = Duration::from_mins(1);
/// and no pause between its bytes be longer.
const SILENCE: Duration = Duration::from_secs(30);

/// Where distributions have the certificates of those whom they trust.
const TRUSTED: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whether a registry need not prove who it is: one on this machine, or one that the user says so of.
pub fn is_open(registry: &str, options: &RegistryOptions) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split(':').next().unwrap_or_default(),
    };
    let local =
        matches!(host, "localhost" | "::1") || host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback());
    local || !options.tls_verify || options.insecure.iter().any(|name| name == registry || name == host)
}

/// What speaks to a registry.
pub fn agent(registry: &str, open: bool) -> Agent {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = if open { Vec::new() } else { certificates(registry) };
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .disable_verification(open)
        .root_certs(RootCerts::Specific(Arc::new(certificates)));
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(SILENCE))
        .user_agent(concat!("rvm/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}

/// Where a registry is. One that need not prove itself may speak plain HTTP: one that answers so does.
pub fn base(agent: &Agent, host: &str, open: bool) -> String {
    let plain = format!("http://{host}");
    let answers =
        || agent.get(format!("{plain}/v2/")).call().is_ok_and(|answer| !answer.status().is_redirection());
    if open && answers() { plain } else { format!("https://{host}") }
}

/// The certificates of the system, or of `$SSL_CERT_FILE`; with those that Docker has for this registry.
fn certificates(registry: &str) -> Vec<Certificate<'static>> {
    let system = match std::env::var_os("SSL_CERT_FILE") {
        Some(file) => Some(PathBuf::from(file)),
        None => TRUSTED.iter().map(PathBuf::from).find(|file| file.exists()),
    };
    let docker = Path::new("/etc/docker/certs.d").join(registry).join("ca.crt");
    let mut certificates = Vec::new();
    for file in system.into_iter().chain([docker]) {
        // Without certificates nobody is trusted, and the connection says so.
        let bytes = std::fs::read(file).unwrap_or_default();
        certificates.extend(parse_pem(&bytes).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        }));
    }
    certificates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_on_this_machine_and_named_ones_are_open() {
        let options =
            RegistryOptions { insecure: vec!["lab:5000".into(), "intern".into()], ..Default::default() };
        for (registry, open) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("127.8.8.8:443", true),
            ("[::1]:5000", true),
            ("lab:5000", true),
            ("lab:5001", false),
            ("intern:80", true),
            ("docker.io", false),
            ("localhost.example.org", false),
        ] {
            assert_eq!(is_open(registry, &options), open, "{registry}");
        }
        assert!(is_open("docker.io", &RegistryOptions { tls_verify: false, ..Default::default() }));
    }
}
