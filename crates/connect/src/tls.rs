//! TLS as libpq's parameters define it (`sslmode`, `sslrootcert`, `sslcert`, …), on rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::certificates::{AnyHost, Unchecked};
use crate::parameters::{Parameters, Variables};
use crate::settings_error::SettingsError;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS if the server offers it (libpq's `prefer` and `allow`); the certificate is not checked.
    Prefer,
    /// TLS or nothing; the certificate is checked only if a root certificate is given.
    Require,
    /// The certificate must come from a trusted authority.
    VerifyCa,
    /// … and name the host.
    VerifyFull,
}

impl std::fmt::Display for TlsMode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

/// Everything about TLS. Files are named here and read at each connection.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub(crate) mode: TlsMode,
    /// TLS from the first byte (17 and later), without asking.
    pub(crate) direct: bool,
    /// The trusted authorities; `system` or none for the operating system's.
    pub(crate) root: Option<PathBuf>,
    sends_name: bool,
    /// Our own certificate and its key.
    own: Option<(PathBuf, PathBuf)>,
    revoked: Vec<PathBuf>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl TlsSettings {
    pub(crate) fn of(parameters: &Parameters, variables: &Variables) -> Result<Self, SettingsError> {
        let modes = [
            ("disable", TlsMode::Disable),
            ("allow", TlsMode::Prefer),
            ("prefer", TlsMode::Prefer),
            ("require", TlsMode::Require),
            ("verify-ca", TlsMode::VerifyCa),
            ("verify-full", TlsMode::VerifyFull),
        ];
        // libpq looks for these, and takes them if they are there.
        let usual = |name: &str| variables.at_home(&format!(".postgresql/{name}")).filter(|path| path.exists());
        let given = |name: &str| parameters.get(name).map(PathBuf::from);
        let certificate = given("sslcert").or_else(|| usual("postgresql.crt"));
        let own = match (
            parameters.choice("sslcertmode", true, &[("disable", false), ("allow", true), ("require", true)])?,
            certificate,
        ) {
            (true, Some(certificate)) => {
                let key = given("sslkey").or_else(|| variables.at_home(".postgresql/postgresql.key"));
                Some((certificate, key.ok_or_else(|| SettingsError::new("sslcert is given, and no sslkey"))?))
            }
            (true, None) | (false, _) => None,
        };
        let mut revoked: Vec<PathBuf> = given("sslcrl").or_else(|| usual("root.crl")).into_iter().collect();
        if let Some(directory) = given("sslcrldir") {
            let wrong = |error| SettingsError::new(format!("cannot read sslcrldir {}: {error}", directory.display()));
            let entries = std::fs::read_dir(&directory).map_err(wrong)?;
            revoked.extend(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file()));
        }
        let mode = parameters.choice("sslmode", TlsMode::Prefer, &modes)?;
        let direct = parameters.choice("sslnegotiation", false, &[("postgres", false), ("direct", true)])?;
        if direct && matches!(mode, TlsMode::Disable | TlsMode::Prefer) {
            return Err(SettingsError::new(format!("sslmode={mode} may not be used with sslnegotiation=direct"))
                .help("use sslmode=require"));
        }
        Ok(Self {
            mode,
            direct,
            root: given("sslrootcert").or_else(|| usual("root.crt")),
            sends_name: parameters.number("sslsni")? != Some(0),
            own,
            revoked,
            versions: versions(parameters)?,
        })
    }

    /// Reads the files and builds the configuration.
    ///
    /// # Errors
    /// A file that cannot be read, or a verifying mode without any root certificate.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let checks_host = match self.mode {
            TlsMode::Disable | TlsMode::Prefer => None,
            TlsMode::Require if self.root.is_none() => None,
            TlsMode::Require | TlsMode::VerifyCa => Some(false),
            TlsMode::VerifyFull => Some(true),
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.versions)
            .map_err(|error| error.to_string())?
            .dangerous();
        let builder = match checks_host {
            None => builder.with_custom_certificate_verifier(Arc::new(Unchecked(provider))),
            Some(checks_host) => {
                let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider)
                    .with_crls(self.revocations()?)
                    .build()
                    .map_err(|error| error.to_string())?;
                if checks_host {
                    builder.with_custom_certificate_verifier(inner)
                } else {
                    builder.with_custom_certificate_verifier(Arc::new(AnyHost(inner)))
                }
            }
        };
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                refuse_public_key_file(key)?;
                let chain = read::<CertificateDer<'static>>(certificate, "sslcert")?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("cannot read sslkey {} (one that is encrypted is none): {error}", key.display()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
            }
        };
        config.enable_sni = self.sends_name;
        if self.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut store = RootCertStore::empty();
        match &self.root {
            Some(path) if path.as_os_str() != "system" => {
                for certificate in read::<CertificateDer<'static>>(path, "sslrootcert")? {
                    store.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
                }
            }
            Some(_) | None => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if store.is_empty() {
            return Err("no root certificate found; set sslrootcert".to_owned());
        }
        Ok(store)
    }

    fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
        let lists = self.revoked.iter().map(|path| read::<CertificateRevocationListDer<'static>>(path, "sslcrl"));
        Ok(lists.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// rustls speaks 1.2 and 1.3.
fn versions(parameters: &Parameters) -> Result<Vec<&'static SupportedProtocolVersion>, SettingsError> {
    let words = [("TLSv1", 0), ("TLSv1.1", 1), ("TLSv1.2", 2), ("TLSv1.3", 3)];
    let min = parameters.choice("ssl_min_protocol_version", 2, &words)?;
    let max = parameters.choice("ssl_max_protocol_version", 3, &words)?;
    let known = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)];
    let allowed: Vec<_> =
        known.into_iter().filter(|(number, _)| (min..=max).contains(number)).map(|(_, version)| version).collect();
    if allowed.is_empty() {
        return Err(SettingsError::new("no TLS version is left between ssl_min_protocol_version and ssl_max_protocol_version")
            .help("TLSv1.2 and TLSv1.3 are spoken"));
    }
    Ok(allowed)
}

fn read<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>, String> {
    let found = T::pem_file_iter(path).map_err(|error| format!("cannot read {what} {}: {error}", path.display()))?;
    found.collect::<Result<Vec<T>, _>>().map_err(|error| format!("{what} {}: {error}", path.display()))
}

/// As libpq does: a private key is for its owner alone, or root's and for a group.
fn refuse_public_key_file(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot read sslkey {}: {error}", path.display()))?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(format!("sslkey {} may be read by others; chmod 0600 (0640 if it is root's)", path.display()));
    }
    Ok(())
}
