//! Which requests are served, and which orders are taken: pure decisions over the headers of a request.
//!
//! A page of another site can make a browser send requests here, and by a name that it points at this host it could read the answers. So the
//! name by which the browser came is checked for everything; an order must come from this page, with the token that only this page can read.

use std::net::IpAddr;

use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};

/// The header of the token.
pub(crate) const TOKEN_HEADER: &str = "x-kcl-token";

/// The sentence that says how orders are allowed.
pub(crate) const NO_ORDERS: &str = "this dashboard gives no orders: start it as `kcl serve --allow-orders`";

/// A request that is not served, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }
}

/// The rules of one process.
#[derive(Debug)]
pub(crate) struct Gate {
    listen: IpAddr,
    hosts: Vec<String>,
    pub(crate) allows_orders: bool,
    token: String,
}

impl Gate {
    /// The gate of a server at this address, which is reached by these names, too. The bytes are random, of this process alone.
    pub(crate) fn new(listen: IpAddr, hosts: &[String], allows_orders: bool, random: [u8; 16]) -> Self {
        Self {
            listen,
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            allows_orders,
            token: random.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// The token that orders need; none where there are no orders.
    pub(crate) fn token(&self) -> Option<&str> {
        self.allows_orders.then_some(self.token.as_str())
    }

    /// Refuses a request that came by a name that is not this server's.
    pub(crate) fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = text(headers, HOST.as_str()).map(name_of).unwrap_or_default();
        let host = host.to_ascii_lowercase();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let is_ours = match address {
            Some(address) => address.is_loopback() || address == self.listen || self.listen.is_unspecified(),
            None => host == "localhost",
        };
        if is_ours || self.hosts.contains(&host) {
            return Ok(());
        }
        let reason =
            format!("this dashboard is not reached by the name {host:?}: allow it with --allow-host");
        Err(Refusal::new(StatusCode::FORBIDDEN, reason))
    }

    /// Refuses an order that was not given on this page.
    pub(crate) fn check_order(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let forbidden = |reason: &str| Err(Refusal::new(StatusCode::FORBIDDEN, reason));
        if !self.allows_orders {
            return forbidden(NO_ORDERS);
        }
        if text(headers, "sec-fetch-site").is_some_and(|site| site != "same-origin") {
            return forbidden("an order is given on this page, and this request came from another site");
        }
        if let Some(origin) = headers.get(ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let place = origin.split_once("://").map(|(_, place)| place);
            let host = text(headers, HOST.as_str());
            let is_same = place
                .zip(host)
                .is_some_and(|(place, host)| place.eq_ignore_ascii_case(host));
            if !is_same {
                return forbidden("an order is given on this page, and this request has another origin");
            }
        }
        let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let reason = "an order is JSON: its content-type is application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        let token = text(headers, TOKEN_HEADER).unwrap_or_default();
        if !is_equal(token, &self.token) {
            return forbidden("the token of the page is missing or of another run: load the page again");
        }
        Ok(())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The name without the port: `localhost:80`, `[::1]:80`.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Compares in a time that does not show where the texts differ.
fn is_equal(one: &str, other: &str) -> bool {
    let differences = one
        .bytes()
        .zip(other.bytes())
        .fold(0, |all, (left, right)| all | (left ^ right));
    one.len() == other.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    fn gate(listen: &str, hosts: &[&str]) -> Gate {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        Gate::new(listen.parse().unwrap(), &hosts, true, [7; 16])
    }

    #[test]
    fn only_names_of_this_server_are_served() {
        let is_served = |gate: &Gate, host: &str| gate.check_host(&headers(&[("host", host)])).is_ok();
        let local = gate("127.0.0.1", &["Kcl.Example"]);
        for host in [
            "localhost",
            "LOCALHOST:9465",
            "127.0.0.1:9465",
            "[::1]:9465",
            "kcl.example:443",
        ] {
            assert!(is_served(&local, host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.7:9465",
            "",
            "127.0.0.1.evil.example:9465",
        ] {
            assert!(!is_served(&local, host), "{host}");
        }
        assert!(local.check_host(&HeaderMap::new()).is_err());
        let everywhere = gate("0.0.0.0", &[]);
        assert!(is_served(&everywhere, "10.0.0.7:9465") && !is_served(&everywhere, "evil.example"));
    }

    #[test]
    fn order_needs_every_proof() {
        let gate = gate("127.0.0.1", &[]);
        let token = "07".repeat(16);
        let good = [
            ("host", "localhost:9465"),
            ("origin", "http://localhost:9465"),
            ("sec-fetch-site", "same-origin"),
            ("content-type", "application/json; charset=utf-8"),
            (TOKEN_HEADER, token.as_str()),
        ];
        assert_eq!(gate.check_order(&headers(&good)), Ok(()));
        let bad = [
            (1, "http://evil.example"),
            (1, "null"),
            (1, "http://localhost:9466"),
            (2, "cross-site"),
            (2, "same-site"),
            (3, "text/plain"),
            (4, "0707"),
            (4, ""),
        ];
        for (index, value) in bad {
            let mut pairs = good;
            pairs[index].1 = value;
            assert!(gate.check_order(&headers(&pairs)).is_err(), "{pairs:?}");
        }
        // A client that is no browser sends neither; it needs the token.
        assert_eq!(gate.check_order(&headers(&[good[0], good[3], good[4]])), Ok(()));
    }

    #[test]
    fn closed_gate_says_how_to_open() {
        let gate = Gate::new([127, 0, 0, 1].into(), &[], false, [7; 16]);
        let refusal = gate.check_order(&HeaderMap::new()).unwrap_err();
        assert!(refusal.reason.contains("--allow-orders"), "{refusal:?}");
        assert_eq!(gate.token(), None);
    }
}
