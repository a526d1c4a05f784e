//! `[api]` and `[feed]`.

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_read::{Miss, ReadSettings, Source};
use toml::Spanned;

use crate::model::{ApiConfig, ProjectionConfig, USUAL_PRODUCTS, WarmConfig};
use crate::nearest::did_you_mean;
use crate::raw;
use crate::reader::{Outcome, Reader};

/// How long changes are remembered, unless it is said.
const DEFAULT_HISTORY_S: u64 = 3_600;

impl Reader<'_> {
    pub(crate) fn feed(&self, feed: Option<&raw::Feed>) -> Outcome<Option<Duration>> {
        let Some(feed) = feed else { return Ok(None) };
        let history = self.duration(feed.history_s.as_ref(), 1_000, 10..=31_536_000, "history_s")?;
        Ok(Some(history.unwrap_or(Duration::from_secs(DEFAULT_HISTORY_S))))
    }

    pub(crate) fn api(&self, api: &raw::Api, projections: &[ProjectionConfig]) -> Outcome<ApiConfig> {
        let milliseconds = |value, default, allowed, name| -> Outcome<Duration> {
            Ok(self.duration(value, 1, allowed, name)?.unwrap_or(Duration::from_millis(default)))
        };
        let timeout = milliseconds(api.request_timeout_ms.as_ref(), 5_000, 10..=600_000, "request_timeout_ms")?;
        let read = ReadSettings {
            timeout,
            total_for: milliseconds(api.total_cache_ms.as_ref(), 0, 0..=3_600_000, "total_cache_ms")?,
            enabled: api.enabled.unwrap_or(true),
            rollout_percent: self.number(api.rollout_percent.as_ref(), 100, 0..=100, "rollout_percent")?,
            chain: self.chain(api.sources.as_ref())?,
            allow_forced: api.allow_source.unwrap_or(false),
            min_lsn_wait: milliseconds(api.min_lsn_wait_ms.as_ref(), 1_000, 0..=60_000, "min_lsn_wait_ms")?,
            min_lsn_miss: self.miss(api.min_lsn_miss.as_ref())?,
            staleness_max: self.duration(api.staleness_max_s.as_ref(), 1_000, 15..=31_536_000, "staleness_max_s")?,
            text_config: api
                .text_search
                .as_ref()
                .map(|name| self.expand(name))
                .transpose()?
                .unwrap_or_else(|| "english".to_owned()),
        };
        Ok(ApiConfig {
            listen: api.listen.as_ref().map(|listen| self.address(listen)).transpose()?,
            settings: api.url.as_ref().map(|url| self.settings(Some(url), api.password_file.as_ref())).transpose()?,
            connections: self.number(api.connections.as_ref(), 10, 1..=1_000, "connections")?,
            tables_at_once: self.number(api.tables_at_once.as_ref(), 4, 1..=1_000, "tables_at_once")?,
            request_timeout: timeout,
            page_max: self.number(api.page_max.as_ref(), 100, 1..=10_000, "page_max")?,
            rollout_header: self.header(api.rollout_header.as_ref())?,
            cors_origins: self.origins(&api.cors_origins)?,
            products: self.answering(api.products.as_ref(), USUAL_PRODUCTS, projections)?,
            items: self.answering(api.items.as_ref(), "recent_items", projections)?,
            warm: api.warm.iter().map(|warm| self.warm(warm, projections)).collect::<Outcome<_>>()?,
            read,
        })
    }

    /// A number that is no time.
    fn number<N: TryFrom<u128>>(
        &self,
        value: Option<&Spanned<raw::Number>>,
        default: N,
        allowed: std::ops::RangeInclusive<u64>,
        name: &str,
    ) -> Outcome<N> {
        let number = self.duration(value, 1, allowed, name)?.map(|number| N::try_from(number.as_millis()));
        Ok(number.and_then(Result::ok).unwrap_or(default))
    }

    fn address(&self, value: &Spanned<String>) -> Outcome<SocketAddr> {
        self.expand(value)?
            .parse()
            .or_else(|_| self.fail(value.span(), "not an address to listen on", "for example \"127.0.0.1:8080\""))
    }

    fn chain(&self, value: Option<&Spanned<Vec<String>>>) -> Outcome<Vec<Source>> {
        let Some(value) = value else { return Ok(Source::ALL.to_vec()) };
        let help = "one or more of \"projection\", \"view\" and \"tables\", each once, best first";
        let mut chain = Vec::new();
        for name in value.get_ref() {
            match Source::from_name(name) {
                Some(source) if !chain.contains(&source) => chain.push(source),
                Some(_) => return self.fail(value.span(), format!("{name} stands twice in sources"), help),
                None => {
                    let meant = did_you_mean(name, Source::ALL.iter().map(|source| source.name()), help);
                    return self.fail(value.span(), format!("unknown source \"{name}\""), meant);
                }
            }
        }
        if chain.is_empty() { self.fail(value.span(), "sources is empty", help) } else { Ok(chain) }
    }

    fn miss(&self, value: Option<&Spanned<String>>) -> Outcome<Miss> {
        let Some(value) = value else { return Ok(Miss::Refuse) };
        match self.expand(value)?.as_str() {
            "refuse" => Ok(Miss::Refuse),
            "tables" => Ok(Miss::Tables),
            other => self.fail(
                value.span(),
                format!("unknown min_lsn_miss \"{other}\""),
                "refuse (503 with Retry-After) or tables (the source tables answer)",
            ),
        }
    }

    fn origins(&self, values: &[Spanned<String>]) -> Outcome<Vec<String>> {
        for value in values {
            let origin = self.expand(value)?;
            let is_origin = origin.starts_with("http://") || origin.starts_with("https://");
            if origin != "*" && !(is_origin && http::HeaderValue::try_from(origin.as_str()).is_ok()) {
                return self.fail(
                    value.span(),
                    "not the origin of a site",
                    "for example \"https://shop.example\", or \"*\" for all",
                );
            }
        }
        self.texts(values)
    }

    fn header(&self, value: Option<&Spanned<String>>) -> Outcome<String> {
        let Some(value) = value else { return Ok("x-request-key".to_owned()) };
        let name = self.expand(value)?.to_ascii_lowercase();
        if http::HeaderName::try_from(name.as_str()).is_err() {
            return self.fail(value.span(), "not the name of a header", "for example \"x-user-id\"");
        }
        Ok(name)
    }

    /// A projection that is named, or the usual one if it is configured.
    fn answering(
        &self,
        value: Option<&Spanned<String>>,
        usual: &str,
        projections: &[ProjectionConfig],
    ) -> Outcome<Option<String>> {
        let known = |name: &str| projections.iter().any(|projection| projection.name == name);
        let Some(value) = value else { return Ok(known(usual).then(|| usual.to_owned())) };
        let name = self.expand(value)?;
        if name.is_empty() {
            return Ok(None);
        }
        if !known(&name) {
            let names = projections.iter().map(|projection| projection.name.as_str());
            let help = did_you_mean(&name, names, "name one, or \"\" for none");
            return self.fail(value.span(), format!("there is no projection \"{name}\""), help);
        }
        Ok(Some(name))
    }

    fn warm(&self, warm: &raw::Warm, projections: &[ProjectionConfig]) -> Outcome<WarmConfig> {
        let projection = self.expand(&warm.projection)?;
        let Some(known) = projections.iter().find(|known| known.name == projection) else {
            return self.fail(
                warm.projection.span(),
                format!("there is no projection \"{projection}\""),
                did_you_mean(&projection, projections.iter().map(|known| known.name.as_str()), "name a configured one"),
            );
        };
        if !known.feed {
            return self.fail(
                warm.projection.span(),
                format!("nothing tells when {projection} has changed"),
                "add [feed], and leave out feed = false of the projection",
            );
        }
        let path = self.expand(&warm.path)?;
        if !path.starts_with("/api/") || path.parse::<http::Uri>().is_err() {
            return self.fail(warm.path.span(), "not a path of the read API", "for example \"/api/products?limit=20\"");
        }
        Ok(WarmConfig { projection, path })
    }
}
