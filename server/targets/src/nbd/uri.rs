// SPDX-License-Identifier: GPL-2.0

//! Where an export is: `nbd://host:port/export` or `nbd+unix:///export?socket=path`.

use std::{fmt, io, path::PathBuf, str::FromStr};

/// A server, and one of its exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    pub(crate) server: Server,
    pub(crate) export: String,
}

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    Tcp(String, u16),
    Unix(PathBuf),
}

const PORT: u16 = 10809;

/// The longest name that the protocol has.
pub(crate) const LONGEST_NAME: usize = 4096;

/// Without `%xx`.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err("what follows a % is two hexadecimal digits".into());
        };
        bytes.extend(u8::try_from(high << 4 | low));
    }
    let text = String::from_utf8(bytes).map_err(|_| "a name is no UTF-8")?;
    if text.contains('\0') { Err("no name has a %00".into()) } else { Ok(text) }
}

/// `%xx` for what means something else there.
fn encode(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' | b':' => {
                write!(f, "{}", char::from(byte))?;
            }
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

fn tcp(authority: &str) -> Result<Server, String> {
    if authority.contains('@') {
        return Err("there are no users in NBD".into());
    }
    // An IPv6 address is in brackets.
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("a bracket is missing")?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => PORT,
        Some("") => PORT,
        port => port
            .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|port| port.parse().ok())
            .ok_or("a port is a number below 65536")?,
    };
    if host.is_empty() {
        return Err("a host is missing: nbd://HOST[:PORT]/EXPORT".into());
    }
    Ok(Server::Tcp(decode(host)?, port))
}

fn unix(authority: &str, query: Option<&str>) -> Result<Server, String> {
    if !authority.is_empty() {
        return Err("no host has UNIX sockets: nbd+unix:///EXPORT?socket=PATH".into());
    }
    let socket = query.and_then(|query| query.strip_prefix("socket=")).filter(|path| !path.is_empty());
    let socket = socket.ok_or("a socket is missing: nbd+unix:///EXPORT?socket=PATH")?;
    if socket.contains(['&', '#']) {
        return Err("nothing follows the path of the socket: write %26 for a &, %23 for a #".into());
    }
    Ok(Server::Unix(decode(socket)?.into()))
}

impl Uri {
    /// The path of a socket is not relative to where we are now. It has to be UTF-8.
    pub fn make_absolute(&mut self) -> io::Result<()> {
        if let Server::Unix(path) = &mut self.server {
            *path = std::path::absolute(&path)?;
            if path.to_str().is_none() {
                return Err(io::Error::other(format!("{}: the name is no UTF-8", path.display())));
            }
        }
        Ok(())
    }
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Uri, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        if ["nbds", "nbds+unix"].contains(&scheme) {
            return Err("there is no TLS here: use nbd://, through a tunnel if need be".into());
        }
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let server = match (scheme, query) {
            ("nbd", None) => tcp(authority)?,
            ("nbd", Some(_)) => return Err("nothing follows the export: write %3F for a ?".into()),
            ("nbd+unix", query) => unix(authority, query)?,
            _ => return Err("not nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH".into()),
        };
        let export = decode(export)?;
        if export.len() > LONGEST_NAME {
            return Err(format!("the name of an export has {LONGEST_NAME} bytes at most"));
        }
        Ok(Uri { server, export })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Server::Tcp(host, port) => {
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "nbd://{open}")?;
                encode(host, f)?;
                write!(f, "{close}:{port}/")?;
                encode(&self.export, f)
            }
            Server::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                encode(&self.export, f)?;
                f.write_str("?socket=")?;
                encode(&path.to_string_lossy(), f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones() {
        let tcp = |host: &str, port, export: &str| Uri {
            server: Server::Tcp(host.into(), port),
            export: export.into(),
        };
        let unix =
            |path: &str, export: &str| Uri { server: Server::Unix(path.into()), export: export.into() };
        for (text, uri) in [
            ("nbd://localhost", tcp("localhost", PORT, "")),
            ("nbd://localhost/", tcp("localhost", PORT, "")),
            ("nbd://localhost:/a", tcp("localhost", PORT, "a")),
            ("nbd://10.0.0.1:99/a/b%20c", tcp("10.0.0.1", 99, "a/b c")),
            ("nbd://[fe80::1]:99/%3Fx", tcp("fe80::1", 99, "?x")),
            ("nbd://[::1]", tcp("::1", PORT, "")),
            ("nbd+unix:///?socket=/run/a%20b", unix("/run/a b", "")),
            ("nbd+unix:///?socket=/a%26b%23=c", unix("/a&b#=c", "")),
            ("nbd+unix:///x?socket=relative", unix("relative", "x")),
        ] {
            assert_eq!(text.parse(), Ok(uri.clone()), "{text}");
            assert_eq!(uri.to_string().parse(), Ok(uri), "{text}, written and read");
        }
    }

    #[test]
    fn elsewhere() {
        let mut uri: Uri = "nbd+unix:///?socket=x/y".parse().unwrap();
        uri.make_absolute().unwrap();
        let Server::Unix(path) = &uri.server else { panic!("{uri}") };
        assert!(path.is_absolute() && path.ends_with("x/y"));
    }

    #[test]
    fn bad_ones() {
        for (text, why) in [
            ("", "not nbd"),
            ("nbd", "host is missing"),
            ("http://x/", "not nbd"),
            ("nbds://x/", "no TLS"),
            ("nbds+unix:///?socket=/x", "no TLS"),
            ("nbd:///x", "host is missing"),
            ("nbd://u@x/", "no users"),
            ("nbd://x:70000/", "port"),
            ("nbd://x:+1/", "port"),
            ("nbd://[::1/", "bracket"),
            ("nbd://[::1]9/", "port"),
            ("nbd://x/?socket=/y", "nothing follows"),
            ("nbd+unix://x/?socket=/y", "no host"),
            ("nbd+unix:///x", "socket is missing"),
            ("nbd+unix:///x?socket=", "socket is missing"),
            ("nbd+unix:///x?socket=/y&z=1", "nothing follows"),
            ("nbd+unix:///x?socket=/y#z", "nothing follows"),
            ("nbd://x/%4", "hexadecimal"),
            ("nbd://x/%+1", "hexadecimal"),
            ("nbd://x/%ff", "UTF-8"),
            ("nbd://x/%00", "%00"),
        ] {
            let said = text.parse::<Uri>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!(format!("nbd://x/{}", "a".repeat(LONGEST_NAME)).parse::<Uri>().is_ok());
        assert!(format!("nbd://x/{}", "a".repeat(LONGEST_NAME + 1)).parse::<Uri>().is_err());
    }
}
