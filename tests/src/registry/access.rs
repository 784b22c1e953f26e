//! A registry's access log, in the combined log format.

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The answer's status.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub bytes: u64,
}

/// All requests, in the order in which their answers ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access(pub Vec<Request>);

impl Access {
    /// Reads the access lines of a registry's log; its other lines are passed over.
    pub fn parse(log: &str) -> Self {
        Self(log.lines().filter_map(line).collect())
    }

    /// What came after `earlier`, an earlier look at the same log.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.get(earlier.0.len()..).unwrap_or_default().to_vec())
    }

    /// The requests that read the content of one blob.
    pub fn blob_reads<'a>(&'a self, digest: &'a str) -> impl Iterator<Item = &'a Request> {
        self.0.iter().filter(move |request| {
            request.method == "GET" && request.path.ends_with(&format!("/blobs/{digest}"))
        })
    }

    /// The bytes sent of one blob.
    pub fn blob_bytes(&self, digest: &str) -> u64 {
        self.blob_reads(digest).map(|request| request.bytes).sum()
    }

    /// The bytes sent of all blobs.
    pub fn all_blob_bytes(&self) -> u64 {
        let blobs =
            self.0.iter().filter(|request| request.method == "GET" && request.path.contains("/blobs/"));
        blobs.map(|request| request.bytes).sum()
    }

    /// The bytes sent of all blobs and manifests.
    pub fn content_bytes(&self) -> u64 {
        let manifests = self.0.iter().filter(|request| {
            request.method == "GET" && request.path.contains("/manifests/") && request.status == 200
        });
        self.all_blob_bytes() + manifests.map(|request| request.bytes).sum::<u64>()
    }

    /// How many requests asked for a manifest by this method.
    pub fn manifest_requests(&self, method: &str) -> usize {
        self.0
            .iter()
            .filter(|request| request.method == method && request.path.contains("/manifests/"))
            .count()
    }
}

/// `host - user [time] "GET /path HTTP/1.1" 200 1234 "referer" "agent"`
fn line(line: &str) -> Option<Request> {
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut request = request.split(' ');
    let (method, target) = (request.next()?, request.next()?);
    let mut rest = rest.split(' ');
    let (status, bytes) = (rest.next()?.parse().ok()?, rest.next()?.parse().ok()?);
    let path = target.split('?').next()?;
    Some(Request { method: method.to_owned(), path: path.to_owned(), status, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"time="2026-11-24T16:02:30Z" level=info msg="listening on 127.0.0.1:41407" version=2.8.2
127.0.0.1 - - [24/Nov/2026:16:02:32 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "curl/7.88.1"
127.0.0.1 - - [24/Nov/2026:16:02:32 +0000] "HEAD /v2/a/b/manifests/latest?x=y HTTP/1.1" 200 0 "" "x [y] \"z"
127.0.0.1 - - [24/Nov/2026:16:02:33 +0000] "GET /v2/a/b/blobs/sha256:aa HTTP/1.1" 206 110 "" "curl/7.88.1"
127.0.0.1 - - [24/Nov/2026:16:02:33 +0000] "HEAD /v2/a/b/blobs/sha256:aa HTTP/1.1" 200 7 "" "curl/7.88.1"
127.0.0.1 - - [24/Nov/2026:16:02:34 +0000] "GET /v2/a/b/manifests/latest HTTP/1.1" 200 40 "" "curl/7.88.1"
"#;

    #[test]
    fn requests_are_read_and_other_lines_passed_over() {
        let access = Access::parse(LOG);
        assert_eq!(access.0.len(), 5);
        assert_eq!(access.0[1].path, "/v2/a/b/manifests/latest");
        assert_eq!(access.blob_bytes("sha256:aa"), 110);
        assert_eq!(access.blob_bytes("sha256:bb"), 0);
        assert_eq!(access.all_blob_bytes(), 110);
        assert_eq!(access.content_bytes(), 150);
        assert_eq!(access.manifest_requests("HEAD"), 1);
    }

    #[test]
    fn since_leaves_out_what_was_seen() {
        let all = Access::parse(LOG);
        let earlier = Access(all.0[..3].to_vec());
        assert_eq!(all.since(&earlier).0.len(), 2);
        assert_eq!(all.since(&all).0.len(), 0);
    }
}
