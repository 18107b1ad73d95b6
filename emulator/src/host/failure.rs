//! Why an invocation failed: the chain of .NET exceptions that the host would log, outermost first.
//!
//! Types and the host's own messages are the host's; what Newtonsoft says of a text it cannot read is worded here.

use super::json::Json;

/// One exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Its .NET type, with the namespace.
    pub kind: String,
    pub message: String,
}

/// The exceptions of a failed invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exceptions: Vec<Exception>,
    /// The status of the answer, if that is what failed.
    status: Option<u16>,
}

impl Failure {
    pub(crate) fn new(kind: &str, message: impl Into<String>) -> Self {
        Self { exceptions: vec![Exception { kind: kind.to_owned(), message: message.into() }], status: None }
    }

    pub(crate) fn caused_by(mut self, kind: &str, message: impl Into<String>) -> Self {
        self.exceptions.push(Exception { kind: kind.to_owned(), message: message.into() });
        self
    }

    /// This failure as the cause of another one.
    pub(crate) fn within(mut self, kind: &str, message: impl Into<String>) -> Self {
        self.exceptions.insert(0, Exception { kind: kind.to_owned(), message: message.into() });
        self
    }

    pub(crate) fn status(status: u16, reason: &str) -> Self {
        let message = format!("Response status code does not indicate success: {status} ({reason}).");
        Self { status: Some(status), ..Self::new("System.Net.Http.HttpRequestException", message) }
    }

    pub(crate) fn refused(port: u16) -> Self {
        Self::new("System.Net.Http.HttpRequestException", format!("Connection refused (127.0.0.1:{port})"))
            .caused_by("System.Net.Sockets.SocketException", "Connection refused")
    }

    /// The connection ended before (or within) the answer.
    pub(crate) fn ended(within_body: bool) -> Self {
        let doing =
            if within_body { "Error while copying content to a stream." } else { "An error occurred while sending the request." };
        Self::new("System.Net.Http.HttpRequestException", doing)
            .caused_by("System.Net.Http.HttpIOException", "The response ended prematurely. (ResponseEnded)")
    }

    pub(crate) fn timed_out(function: &str, limit: std::time::Duration) -> Self {
        Self::new(
            "Microsoft.Azure.WebJobs.Host.FunctionTimeoutException",
            format!("Timeout value of {} ms was exceeded by function: Functions.{function}", limit.as_millis()),
        )
    }

    /// As `RetryContext` of the next attempt carries it.
    pub(crate) fn retry_exception(&self, function: &str) -> Json {
        let null = Json::Null;
        let text = |text: &str| Json::text(text);
        let object = |members: Vec<(&str, Json)>| Json::Object(members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
        let number = |n: i64| Json::Integer(n.to_string());
        let inner = self.exceptions.iter().rev().fold(Json::Null, |inner, exception| {
            let mut members = Vec::new();
            if let Some(status) = self.status {
                members.push(("HttpRequestError", number(0)));
                members.push(("StatusCode", number(i64::from(status))));
            }
            members.extend([
                ("Message", text(&exception.message)),
                ("Data", object(Vec::new())),
                ("InnerException", inner),
                ("HelpLink", null.clone()),
                ("Source", text("System.Net.Http")),
                ("HResult", number(-2_146_233_088)),
                ("StackTrace", text("   at System.Net.Http.HttpResponseMessage.EnsureSuccessStatusCode()")),
            ]);
            object(members)
        });
        object(vec![
            ("InstanceId", text("00000000-0000-0000-0000-000000000000")),
            ("MethodName", null.clone()),
            ("Handled", Json::Bool(false)),
            ("ClassName", text("Microsoft.Azure.WebJobs.Host.FunctionInvocationException")),
            ("Message", text(&format!("Exception while executing function: Functions.{function}"))),
            ("Data", null.clone()),
            ("InnerException", inner),
            ("HelpURL", null.clone()),
            ("StackTraceString", null.clone()),
            ("RemoteStackTraceString", null.clone()),
            ("RemoteStackIndex", number(0)),
            ("ExceptionMethod", null.clone()),
            ("HResult", number(-2_146_233_088)),
            ("Source", null.clone()),
            ("WatsonBuckets", null),
        ])
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, exception) in self.exceptions.iter().enumerate() {
            if i > 0 {
                f.write_str(" -> ")?;
            }
            write!(f, "{}: {}", exception.kind, exception.message)?;
        }
        Ok(())
    }
}
