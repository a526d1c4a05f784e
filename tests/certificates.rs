//! Certificates: of old versions, our own, renewed, revoked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lockstep_cluster::Cluster;
use lockstep_testkit::{cluster_with_files, connect};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

use crate::connections::{by_us, private_file};

/// A certificate of version 1, which names no host and knows no extensions; for a hundred years.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBIzCBywIUPyM6kpxZeVXYn/Ue+yVUNY0FkJUwCgYIKoZIzj0EAwIwFDESMBAG\n\
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjE1NDYxOVoYDzIxMjYxMTAyMTU0NjE5\n\
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AAS2RGCSKyj4ZQjeYZ+TIETrJSmVQGz7c8R5J5GKYmZWFnOeI3e2Qh6fw0e83qTk\n\
zYiOTR1hOiS+ok6gAkGRz+YCMAoGCCqGSM49BAMCA0cAMEQCIDAb2wOjqvVzrzug\n\
S7Lyu4O44s32EoKuaSWmk5CFA9r4AiAk6jFtO6jb70MJ7tLtADSFccGbj8VE2gK2\n\
oV3hcciy8g==\n\
-----END CERTIFICATE-----\n\
";
const KEY_OF_VERSION_1: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1YBPay/zFtNwDKEM\n\
L+z2Vn0rbnNGRNBss7jl6bIiefOhRANCAAS2RGCSKyj4ZQjeYZ+TIETrJSmVQGz7\n\
c8R5J5GKYmZWFnOeI3e2Qh6fw0e83qTkzYiOTR1hOiS+ok6gAkGRz+YC\n\
-----END PRIVATE KEY-----\n\
";

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_version_1_will_do_where_none_is_verified() -> anyhow::Result<()> {
    let cluster = cluster_with_files(
        &["ssl=on"],
        vec![
            ("server.crt".to_owned(), VERSION_1.to_owned()),
            ("server.key".to_owned(), KEY_OF_VERSION_1.to_owned()),
            ("pg_hba.conf".to_owned(), "local all all trust\nhostssl all all all scram-sha-256\n".to_owned()),
        ],
    )?;
    let admin = format!("host={} port={} user=postgres", cluster.directory().display(), cluster.port());
    connect(&admin)
        .await?
        .batch_execute("SET password_encryption = 'scram-sha-256'; ALTER ROLE postgres PASSWORD 'word'")
        .await?;
    let conninfo =
        |more: &str| format!("host=127.0.0.1 port={} user=postgres password=word dbname=postgres {more}", cluster.port());
    let none = HashMap::new();
    for more in [
        "sslmode=require",
        "sslmode=prefer",
        "sslmode=require channel_binding=require",
        "sslmode=require ssl_max_protocol_version=TLSv1.2",
    ] {
        let found = by_us(&conninfo(more), &none).await;
        assert!(found.is_ok(), "{more}: {found:?}");
    }
    let directory = tempfile::tempdir()?;
    let root = directory.path().join("root.crt");
    std::fs::write(&root, VERSION_1)?;
    for mode in ["verify-ca", "verify-full"] {
        let refused = by_us(&conninfo(&format!("sslmode={mode} sslrootcert={}", root.display())), &none).await;
        assert!(refused.as_ref().is_err_and(|said| said.contains("TLS with")), "{mode}: {refused:?}");
    }
    Ok(())
}

/// An authority that both sides trust.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(parameters, key), certificate })
    }

    /// Certificate and key.
    fn issue(&self, common_name: &str, host: &str, serial: u64) -> anyhow::Result<(String, String)> {
        let mut parameters = CertificateParams::new(vec![host.to_owned()])?;
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate()?;
        Ok((parameters.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    fn revoke(&self, serials: &[u64]) -> anyhow::Result<String> {
        let revoked = |&serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2200, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

const SERVER: u64 = 7;

/// A server that lets nobody in without a certificate, and asks for no password.
fn certified_cluster(authority: &Authority) -> anyhow::Result<Cluster> {
    let (certificate, key) = authority.issue("localhost", "localhost", SERVER)?;
    cluster_with_files(
        &["ssl=on", "listen_addresses=localhost", "ssl_ca_file=root.crt"],
        vec![
            ("server.crt".to_owned(), certificate),
            ("server.key".to_owned(), key),
            ("root.crt".to_owned(), authority.certificate.clone()),
            ("pg_hba.conf".to_owned(), "local all all trust\nhostssl all all all cert\n".to_owned()),
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_certificate_lets_us_in_and_what_is_revoked_is_refused() -> anyhow::Result<()> {
    let authority = Authority::new()?;
    let cluster = certified_cluster(&authority)?;
    let directory = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
        let path = directory.path().join(name);
        private_file(&path, text)?;
        Ok(path)
    };
    let (certificate, key) = authority.issue("postgres", "client", 8)?;
    let (stranger, key_of_stranger) = Authority::new()?.issue("postgres", "client", 9)?;
    let root = file("root.crt", &authority.certificate)?;
    let (own, own_key) = (file("own.crt", &certificate)?, file("own.key", &key)?);
    let conninfo = |certificate: &Path, key: &Path, more: &str| {
        format!(
            "host=localhost port={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={} sslcert={} sslkey={} {more}",
            cluster.port(),
            root.display(),
            certificate.display(),
            key.display()
        )
    };
    let none = HashMap::new();
    let found = by_us(&conninfo(&own, &own_key, ""), &none).await;
    assert!(found.is_ok(), "{found:?}");
    // Renewed by one whom the server does not know, then well again: the files are read each time.
    let settings = lockstep_connect::Settings::resolve(Some(&conninfo(&own, &own_key, "")), &|_| None)?;
    let opens = async || lockstep_connect::Session::open(&settings, "lockstep test").await.map(drop);
    opens().await?;
    file("own.crt", &stranger)?;
    file("own.key", &key_of_stranger)?;
    assert!(opens().await.is_err(), "the certificate of a stranger");
    file("own.crt", &certificate)?;
    file("own.key", &key)?;
    opens().await?;

    let other = file("other.crl", &authority.revoke(&[100])?)?;
    let found = by_us(&conninfo(&own, &own_key, &format!("sslcrl={}", other.display())), &none).await;
    assert!(found.is_ok(), "{found:?}");
    let revoked = file("server.crl", &authority.revoke(&[SERVER])?)?;
    let found = by_us(&conninfo(&own, &own_key, &format!("sslcrl={}", revoked.display())), &none).await;
    assert!(found.as_ref().is_err_and(|said| said.contains("evoked")), "{found:?}");

    // A key that others can read is none.
    std::fs::set_permissions(&own_key, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let found = by_us(&conninfo(&own, &own_key, ""), &none).await;
    assert!(found.as_ref().is_err_and(|said| said.contains("may be read by others")), "{found:?}");
    Ok(())
}
