//! `[[projection]]`.

use std::path::{Path, PathBuf};

use lockstep_refresh::OnError;
use toml::Spanned;

use crate::cube::CUBE_SUFFIX;
use crate::model::{DEFAULT_GROUP, GroupConfig, ProjectionConfig};
use crate::nearest::did_you_mean;
use crate::raw;
use crate::reader::{Outcome, Reader};

/// Hidden state is named after the projection, and PostgreSQL's names have at most 63 bytes.
const NAME_BYTES_MAX: usize = 38;

impl Reader<'_> {
    pub(crate) fn projection(
        &self,
        projection: &raw::Projection,
        groups: &[GroupConfig],
        feed: bool,
    ) -> Outcome<ProjectionConfig> {
        let name = self.expand(&projection.name)?;
        let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let all_well = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !starts_well || !all_well || name.len() > NAME_BYTES_MAX {
            return self.fail(
                projection.name.span(),
                "not a projection name",
                format!("use lower-case letters, digits and underscores, at most {NAME_BYTES_MAX}; it names the table"),
            );
        }
        if let Some(reserved) = ["__2", "__old"].into_iter().find(|reserved| name.ends_with(reserved)) {
            return self.fail(
                projection.name.span(),
                format!("a projection name must not end in {reserved}"),
                "that is what versions of a projection are called while one takes the other's place",
            );
        }
        if name.ends_with(CUBE_SUFFIX) {
            return self.fail(
                projection.name.span(),
                format!("a projection name must not end in {CUBE_SUFFIX}"),
                "that is what the counts of a projection's facets are called",
            );
        }
        let numbered = name.rsplit_once("__part").is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
        if numbered {
            return self.fail(
                projection.name.span(),
                "a projection name must not end in __part and a number",
                "that is what the blocks of a projection are called",
            );
        }
        let (query_path, sql) = match (&projection.query, &projection.sql) {
            (Some(query), None) => {
                let (path, text) = self.read(query)?;
                (Some(path), text)
            }
            (None, Some(sql)) => (None, self.expand(sql)?),
            (Some(_), Some(sql)) => return self.fail(sql.span(), "both query and sql are given", "keep one of them"),
            (None, None) => {
                return self.fail(
                    projection.name.span(),
                    "the projection has no query",
                    "add query = \"file.sql\" or sql = \"SELECT …\"",
                );
            }
        };
        let group = projection.group.as_ref().map(|group| self.expand(group)).transpose()?;
        if let (Some(wanted), Some(place)) = (&group, &projection.group)
            && wanted != DEFAULT_GROUP
            && !groups.iter().any(|group| &group.name == wanted)
        {
            return self.fail(
                place.span(),
                format!("there is no group \"{wanted}\""),
                did_you_mean(
                    wanted,
                    groups.iter().map(|group| group.name.as_str()),
                    format!("add [[group]] name = \"{wanted}\", or leave group out"),
                ),
            );
        }
        Ok(ProjectionConfig {
            name,
            query_path,
            sql,
            key: projection.key.as_ref().map(|key| self.texts(key)).transpose()?,
            indexes: projection.indexes.as_ref().map(|path| self.read(path)).transpose()?.map(|(_, text)| text),
            group,
            backstop: projection.backstop.unwrap_or(true),
            feed: feed && projection.feed.unwrap_or(true),
            on_error: self.on_error(projection.on_error.as_ref())?,
            time_zone: projection
                .timezone
                .as_ref()
                .map(|zone| self.expand(zone))
                .transpose()?
                .unwrap_or_else(|| "UTC".to_owned()),
            time_zone_span: projection.timezone.as_ref().map(Spanned::span),
            sql_start: projection.sql.as_ref().and_then(|sql| self.start_of(sql)),
            facets: projection.facets.as_ref().map(|facets| self.facets(facets)).transpose()?.unwrap_or_default(),
            facets_span: projection.facets.as_ref().map(Spanned::span),
            cube_of: None,
            version_of: None,
        })
    }

    /// Where a text begins that stands in the file as it is: without escapes and variables.
    fn start_of(&self, value: &Spanned<String>) -> Option<usize> {
        let span = value.span();
        self.text.get(span.clone())?.find(value.get_ref().as_str()).map(|at| span.start + at)
    }

    fn on_error(&self, value: Option<&Spanned<String>>) -> Outcome<OnError> {
        let Some(value) = value else { return Ok(OnError::default()) };
        match self.expand(value)?.as_str() {
            "keep" => Ok(OnError::Keep),
            "remove" => Ok(OnError::Remove),
            "halt" => Ok(OnError::Halt),
            other => self.fail(
                value.span(),
                format!("unknown on_error \"{other}\""),
                did_you_mean(
                    other,
                    ["keep", "remove", "halt"],
                    "keep (the last good row stays), remove (the row goes) or halt (the projection is set aside)",
                ),
            ),
        }
    }

    fn read(&self, path: &Spanned<String>) -> Outcome<(PathBuf, String)> {
        let relative = self.expand(path)?;
        let full = self.path.parent().unwrap_or(Path::new("")).join(relative);
        match std::fs::read_to_string(&full) {
            Ok(text) => Ok((full, text)),
            Err(error) => self.fail(
                path.span(),
                format!("cannot read {}: {error}", full.display()),
                "paths are relative to the configuration file",
            ),
        }
    }
}
