//! What is known besides bytes: media types, repositories and who could read them, tags.

use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::tag::SignedTagMapping;

use crate::StoreError;
use crate::change::{Change, decode_tag};
use crate::store::{Store, blocking};
use crate::tables::{
    MEDIA_TYPES, PUBLIC_IN, READABLE, REPOSITORIES, TAGS, key, readable_key, repository_key, scopes, tag_of,
    tag_prefix,
};

impl Store {
    /// Notes what a manifest is served as.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn set_media_type(&self, digest: &Digest, media_type: &str) -> Result<(), StoreError> {
        self.inner.writer.write(Change::MediaType(*digest, media_type.to_owned())).await
    }

    /// What a manifest is served as, if it was noted.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn media_type(&self, digest: &Digest) -> Result<Option<String>, StoreError> {
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || {
            inner.database.read(|txn| {
                let table = txn.open_table(MEDIA_TYPES)?;
                Ok(table.get(&*key(&digest))?.map(|row| row.value().to_owned()))
            })
        })
        .await
    }

    /// Notes a repository that a blob is in, as upstream said; to everyone, if it is `public` there. At most 16 are
    /// remembered.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn note_repository(
        &self,
        digest: &Digest,
        scope: &Scope,
        public: bool,
    ) -> Result<(), StoreError> {
        if self.is_in(digest, scope, public).await? {
            // Most of the time: it needs no commit.
            return Ok(());
        }
        self.inner.writer.write(Change::Repository { digest: *digest, scope: scope.clone(), public }).await
    }

    /// Notes that a blob is in a repository no more.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn forget_repository(&self, digest: &Digest, scope: &Scope) -> Result<(), StoreError> {
        if !self.is_in(digest, scope, false).await? && !self.is_in(digest, scope, true).await? {
            return Ok(());
        }
        self.inner.writer.write(Change::NotIn(*digest, scope.clone())).await
    }

    /// The repositories that a blob is in.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn repositories(&self, digest: &Digest) -> Result<Vec<Scope>, StoreError> {
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || inner.database.read(|txn| scopes(&txn.open_table(REPOSITORIES)?, &digest))).await
    }

    /// Whether upstream said that a blob is in this repository (to everyone, if it is to be `public`), among the 16 that
    /// are remembered.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn is_in(&self, digest: &Digest, scope: &Scope, public: bool) -> Result<bool, StoreError> {
        let (inner, key) = (self.inner.clone(), repository_key(digest, scope));
        let table = if public { PUBLIC_IN } else { REPOSITORIES };
        blocking(move || inner.database.read(|txn| Ok(txn.open_table(table)?.get(&*key)?.is_some()))).await
    }

    /// Notes that upstream let `whom` (everyone, or another word for many) read a repository at this time, in milliseconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn note_readable(
        &self,
        scope: &Scope,
        whom: &'static str,
        checked_unix_ms: u64,
    ) -> Result<(), StoreError> {
        self.inner.writer.write(Change::Readable(scope.clone(), whom, Some(checked_unix_ms))).await
    }

    /// Forgets that.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn forget_readable(&self, scope: &Scope, whom: &'static str) -> Result<(), StoreError> {
        self.inner.writer.write(Change::Readable(scope.clone(), whom, None)).await
    }

    /// When upstream last let them read a repository, if it ever did.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn readable_at(&self, scope: &Scope, whom: &str) -> Result<Option<u64>, StoreError> {
        let (inner, key) = (self.inner.clone(), readable_key(scope, whom));
        blocking(move || {
            inner.database.read(|txn| Ok(txn.open_table(READABLE)?.get(key.as_str())?.map(|row| row.value())))
        })
        .await
    }

    /// Notes what a tag named. The newest is kept for each media type, eight of them at most.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn put_tag(&self, signed: SignedTagMapping) -> Result<(), StoreError> {
        self.inner.writer.write(Change::Tag(signed)).await
    }

    /// What a tag was last known to name.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn tags(&self, scope: &Scope, tag: &Tag) -> Result<Vec<SignedTagMapping>, StoreError> {
        let (inner, prefix) = (self.inner.clone(), tag_prefix(scope, tag));
        blocking(move || {
            inner.database.read(|txn| {
                let table = txn.open_table(TAGS)?;
                let mut mappings = Vec::new();
                for row in table.range(prefix.as_str()..)? {
                    let (key, value) = row?;
                    if !key.value().starts_with(&prefix) {
                        break;
                    }
                    mappings.push(decode_tag(value.value())?);
                }
                Ok(mappings)
            })
        })
        .await
    }

    /// The tags that something is known of, in order: at most `limit` of those that follow `after`.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn tags_page(
        &self,
        after: Option<(Scope, Tag)>,
        limit: usize,
    ) -> Result<Vec<(Scope, Tag)>, StoreError> {
        let inner = self.inner.clone();
        blocking(move || {
            inner.database.read(|txn| {
                let table = txn.open_table(TAGS)?;
                // A tag's mappings begin with its prefix, and no media type begins with this.
                let start = after
                    .as_ref()
                    .map_or_else(String::new, |(scope, tag)| tag_prefix(scope, tag) + "\u{10ffff}");
                let mut tags = Vec::new();
                for row in table.range(start.as_str()..)? {
                    let tag = tag_of(row?.0.value()).ok_or(StoreError::Row("a tag's key"))?;
                    if tags.last() != Some(&tag) {
                        if tags.len() >= limit {
                            break;
                        }
                        tags.push(tag);
                    }
                }
                Ok(tags)
            })
        })
        .await
    }
}
