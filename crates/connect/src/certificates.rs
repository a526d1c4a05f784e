//! What is looked at in a server's certificate, mode by mode.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::der::{Decode as _, Encode as _};

/// The `tls-server-end-point` channel binding data (RFC 5929 §4.1): the certificate hashed with its signature's hash,
/// MD5 and SHA-1 replaced by SHA-256. `None` where the signature names no hash (Ed25519).
pub(crate) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    use x509_cert::der::oid::db::rfc5912 as oid;
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let bytes = certificate.as_ref();
    match parsed.signature_algorithm().oid {
        oid::SHA_1_WITH_RSA_ENCRYPTION | oid::SHA_256_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_256 => {
            Some(Sha256::digest(bytes).to_vec())
        }
        oid::SHA_384_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_384 => Some(Sha384::digest(bytes).to_vec()),
        oid::SHA_512_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_512 => Some(Sha512::digest(bytes).to_vec()),
        _ => None,
    }
}

/// Modes that verify nothing: encryption, no authentication. The handshake is checked all the same: that the server has the
/// certificate's key is what channel binding rests on.
#[derive(Debug)]
pub(crate) struct Unchecked(pub(crate) Arc<CryptoProvider>);

impl Unchecked {
    /// The key's algorithms and bits, from a certificate of any version: rustls reads none before version 3.
    fn verify_with_key(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let parsed = x509_cert::Certificate::from_der(certificate).map_err(|_| bad())?;
        let key = parsed.tbs_certificate().subject_public_key_info();
        let algorithm = key.algorithm.to_der().map_err(|_| bad())?;
        let bits = key.subject_public_key.as_bytes().ok_or_else(bad)?;
        let mapping = self.0.signature_verification_algorithms.mapping;
        let candidates = mapping.iter().filter(|(scheme, _)| *scheme == signature.scheme).flat_map(|(_, algorithms)| *algorithms);
        // An algorithm identifier is the content of its sequence.
        let matching = candidates.filter(|candidate| algorithm.ends_with(candidate.public_key_alg_id().as_ref()));
        matching
            .map(|candidate| candidate.verify_signature(bits, message, signature.signature()))
            .find_map(Result::ok)
            .map(|()| HandshakeSignatureValid::assertion())
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::BadSignature))
    }
}

fn is_unread(found: &Result<HandshakeSignatureValid, rustls::Error>) -> bool {
    matches!(found, Err(rustls::Error::InvalidCertificate(CertificateError::Other(_) | CertificateError::BadEncoding)))
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let found = verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms);
        if is_unread(&found) { self.verify_with_key(message, certificate, signature) } else { found }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let found = verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms);
        if !is_unread(&found) {
            return found;
        }
        let bad = |_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let parsed = x509_cert::Certificate::from_der(certificate).map_err(bad)?;
        let key = parsed.tbs_certificate().subject_public_key_info().to_der().map_err(bad)?;
        let key = SubjectPublicKeyInfoDer::from(key);
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `sslmode=verify-ca`: the chain counts, the host name does not.
#[derive(Debug)]
pub(crate) struct AnyHost(pub(crate) Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
