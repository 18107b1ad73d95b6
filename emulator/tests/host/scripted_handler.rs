//! A handler for tests of the emulated host: it does what the text `do:…` in a request's body says, else what `DO` in its
//! environment says, else it succeeds.
//!
//! | `do:` | What happens |
//! |---|---|
//! | `ok` | 200; `Logs` holds the request's body |
//! | `fail` | 500 |
//! | `null` | 200 with the body `null` |
//! | `hang` | no answer; a line says so |
//! | `drop` | the connection is closed |
//! | `exit 3` | the process ends with this code |
//! | `rest 2500` | 200 after so many milliseconds |
//! | `environment` | 200; `Logs` holds the environment |
//! | `outputs {…}` | 200 with this for `Outputs` |

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::exit;
use std::time::Duration;

#[expect(clippy::disallowed_methods, reason = "a handler is told its port by its environment")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn main() {
    println!("to standard output, with a warning");
    eprintln!("to standard error");
    eprintln!("a Warning to standard error");
    if let Some(code) = setting("EXIT_AT_START").and_then(|code| code.parse().ok()) {
        exit(code);
    }
    let port = setting("FUNCTIONS_CUSTOMHANDLER_PORT").and_then(|port| port.parse::<u16>().ok()).expect("a port");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(stream));
    }
}

fn serve(mut stream: TcpStream) {
    let mut buffer = Vec::new();
    while let Some((line, body)) = read(&mut stream, &mut buffer) {
        let line = line.trim_end_matches(" HTTP/1.1");
        let answer = if line == "GET /" {
            ("200 OK", String::new())
        } else if line.starts_with("GET ") || line.contains(" /api/") {
            ("200 OK", format!("{line} by {}: {body}", std::process::id()))
        } else {
            match act(&body) {
                Some(answer) => answer,
                None => return,
            }
        };
        let head =
            format!("HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", answer.0, answer.1.len());
        if stream.write_all((head + &answer.1).as_bytes()).is_err() {
            return;
        }
    }
}

/// Status and body; none: close the connection.
fn act(body: &str) -> Option<(&'static str, String)> {
    let told = body.split_once("do:").map(|(_, rest)| rest.split(['"', ';']).next().unwrap_or_default().trim_end_matches('\\'));
    let from_environment = setting("DO");
    let command = told.or(from_environment.as_deref()).unwrap_or("ok");
    let (verb, operand) = command.split_once(' ').unwrap_or((command, ""));
    let logs = |text: &str| Some(("200 OK", format!("{{\"Outputs\":{{}},\"Logs\":[{}],\"ReturnValue\":null}}", quoted(text))));
    match verb {
        "fail" => Some(("500 Internal Server Error", "{}".to_owned())),
        "null" => Some(("200 OK", "null".to_owned())),
        "hang" => {
            println!("hanging");
            loop {
                std::thread::park();
            }
        }
        "drop" => None,
        "exit" => exit(operand.parse().unwrap_or(1)),
        "rest" => {
            rest(Duration::from_millis(operand.parse().unwrap_or(0)));
            logs(body)
        }
        "environment" => {
            let mut lines: Vec<String> = environment().map(|(name, value)| format!("{name}={value}")).collect();
            lines.sort();
            logs(&lines.join("\n"))
        }
        "output" => Some(("200 OK", format!("{{\"Outputs\":{{\"out\":{}}}}}", quoted(operand)))),
        _ => logs(body),
    }
}

#[expect(clippy::disallowed_methods, reason = "the test asks what the host gave")]
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars()
}

#[expect(clippy::disallowed_methods, reason = "the test asks for a slow handler")]
fn rest(duration: Duration) {
    std::thread::sleep(duration);
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => _ = write!(out, "\\{c}"),
            c if c < ' ' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// The first line and the body of a request.
fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, String)> {
    let head = until(stream, buffer, b"\r\n\r\n")?;
    let head = head.to_ascii_lowercase() + "\r\n";
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let size = usize::from_str_radix(&until(stream, buffer, b"\r\n")?, 16).ok()?;
            fill(stream, buffer, size + 2)?;
            body.extend(buffer.drain(..size));
            buffer.drain(..2);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        fill(stream, buffer, length)?;
        body = buffer.drain(..length).collect();
    }
    let line = head.split("\r\n").next()?.to_owned();
    let upper = line.split(' ').next()?.to_ascii_uppercase();
    let rest = line.split_once(' ')?.1.replace("http/", "HTTP/");
    Some((format!("{upper} {rest}"), String::from_utf8_lossy(&body).into_owned()))
}

fn until(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<String> {
    loop {
        if let Some(place) = buffer.windows(end.len()).position(|window| window == end) {
            let text = String::from_utf8_lossy(&buffer[..place]).into_owned();
            buffer.drain(..place + end.len());
            return Some(text);
        }
        let wanted = buffer.len() + 1;
        fill(stream, buffer, wanted)?;
    }
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>, size: usize) -> Option<()> {
    let mut bytes = [0; 8192];
    while buffer.len() < size {
        match stream.read(&mut bytes) {
            Ok(count @ 1..) => buffer.extend(&bytes[..count]),
            _ => return None,
        }
    }
    Some(())
}
