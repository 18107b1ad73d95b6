//! The transport of the official sign-in: a refusal of the login host in a form that the official client can read.
//!
//! That client cannot read a description with an escaped character, and Microsoft Entra writes line ends into them: a wrong secret
//! would look like a login host that is out of order. Only the codes are handed on: a description may repeat what was sent.

use async_trait::async_trait;
use azure_core::http::{AsyncRawResponse, HttpClient, Request};
use serde_json::{Value, json};

#[derive(Debug)]
pub(super) struct Login(pub(super) reqwest::Client);

#[async_trait]
impl HttpClient for Login {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let answer = self.0.execute_request(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (status, headers, body) = answer.try_into_raw_response().await?.deconstruct();
        let codes = codes(body.as_ref()).map(|codes| json!({ "error_codes": codes }).to_string().into());
        Ok(AsyncRawResponse::from_bytes(status, headers, codes.unwrap_or_else(|| bytes::Bytes::copy_from_slice(body.as_ref()))))
    }
}

/// From their list, else the one that the description begins with; none: it is not the login host's answer.
fn codes(body: &[u8]) -> Option<Vec<i32>> {
    let answer: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    let listed = answer["error_codes"].as_array().into_iter().flatten();
    let listed: Vec<i32> = listed.filter_map(|code| i32::try_from(code.as_i64()?).ok()).collect();
    let described = || {
        let (_, rest) = answer["error_description"].as_str()?.split_once("AADSTS")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some(if listed.is_empty() { described().into_iter().collect() } else { listed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_wherever_they_stand() {
        for (body, found) in [
            (r#"{"error_description":"AADSTS1: a","error_codes":[50034,7000215]}"#, Some(vec![50_034, 7_000_215])),
            (r#"{"error_description":"AADSTS7000215: a\r\nTrace ID: 5"}"#, Some(vec![7_000_215])),
            (r#"{"error":"invalid_client"}"#, Some(Vec::new())),
            ("<html>AADSTS5</html>", None),
        ] {
            assert_eq!(codes(body.as_bytes()), found, "{body}");
        }
    }
}
