//! The fleet's REST API and pages, as anybody sees them.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

/// How long one answer may take on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Rows of one page of telemetry.
const PAGE_ROWS: u64 = 1000;

/// An API that listens.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    agent: ureq::Agent,
}

impl Api {
    /// The API at `address`.
    pub fn new(address: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_MAX))
            .build();
        Self { address, agent: config.into() }
    }

    /// Status and body of one request; nothing if there is no answer.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let content = body.map(|body| ("application/json", body.to_string().into_bytes()));
        self.send(method, path, content)
    }

    /// The same with any content.
    ///
    /// # Panics
    /// If `path` is not one.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        content: Option<(&str, Vec<u8>)>,
    ) -> Option<(u16, Value)> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        let (request, body) = match content {
            Some((kind, body)) => (request.header("content-type", kind), body),
            None => (request, Vec::new()),
        };
        let request = request.body(body).expect("the request is well formed");
        let mut answer = self.agent.run(request).ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Some((answer.status().as_u16(), body))
    }

    /// What is at `path`; nothing if there is no answer or another than success.
    pub fn find(&self, path: &str) -> Option<Value> {
        self.call("GET", path, None).filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    /// What is at `path`.
    ///
    /// # Panics
    /// If there is no such answer.
    pub fn get(&self, path: &str) -> Value {
        self.find(path).unwrap_or_else(|| panic!("GET {path}: {:?}", self.call("GET", path, None)))
    }

    /// The bytes of a file at `path`.
    ///
    /// # Panics
    /// If there is no such answer.
    pub fn download(&self, path: &str) -> Vec<u8> {
        let answer = self.agent.get(format!("http://{}{path}", self.address)).call();
        let mut answer = answer.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        let bytes = answer.body_mut().read_to_vec();
        let bytes = bytes.unwrap_or_else(|error| panic!("GET {path} ends early: {error}"));
        assert_eq!(answer.status().as_u16(), 200, "GET {path}");
        bytes
    }

    /// All rows of a device's `results`, `profiles` or `events`.
    ///
    /// # Panics
    /// As [`Api::get`].
    pub fn rows(&self, device: &str, kind: &str) -> Vec<Value> {
        let mut rows: Vec<Value> = Vec::new();
        loop {
            let after = rows.last().map_or(0, |row| number(&row["id"]));
            let path = format!("/api/v1/devices/{device}/{kind}?after={after}&limit={PAGE_ROWS}");
            let Value::Array(page) = self.get(&path) else { panic!("{path} is a list") };
            if page.is_empty() {
                return rows;
            }
            rows.extend(page);
        }
    }
}

/// A count.
///
/// # Panics
/// If it is none.
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a count"))
}
