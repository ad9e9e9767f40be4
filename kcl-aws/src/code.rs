//! The meaning of the error codes that every service of AWS answers with.

/// The meaning of an error code that does not depend on the service. Adapters add the codes of their own service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// Too many requests.
    Throttled,
    /// The service failed.
    Unavailable,
    /// The credentials are good, and the action is not granted to them.
    NotGranted,
    /// The credentials are unknown, or there are none.
    Credentials,
    /// The credentials are too old. This heals by itself where their source renews them.
    Expired,
    /// The signature is wrong: another secret key, or another time. The service explains it by quoting the request.
    Signature,
    /// The service or the region is not activated for the account.
    NotActivated,
    /// The request makes no sense to the service.
    Invalid,
}

/// From the "Common Errors" of the API references of Kinesis and of DynamoDB, and from the code of AWS SDKs.
const CODES: &[(&str, Code)] = &[
    ("ProvisionedThroughputExceededException", Code::Throttled),
    ("LimitExceededException", Code::Throttled),
    ("ThrottlingException", Code::Throttled),
    ("Throttling", Code::Throttled),
    ("ThrottledException", Code::Throttled),
    ("RequestLimitExceeded", Code::Throttled),
    ("TooManyRequestsException", Code::Throttled),
    ("InternalFailureException", Code::Unavailable),
    ("InternalFailure", Code::Unavailable),
    ("InternalServerError", Code::Unavailable),
    ("ServiceUnavailable", Code::Unavailable),
    ("ServiceUnavailableException", Code::Unavailable),
    ("AccessDeniedException", Code::NotGranted),
    ("AccessDenied", Code::NotGranted),
    ("NotAuthorized", Code::NotGranted),
    ("UnauthorizedOperation", Code::NotGranted),
    ("UnrecognizedClientException", Code::Credentials),
    ("InvalidClientTokenId", Code::Credentials),
    ("MissingAuthenticationToken", Code::Credentials),
    ("MissingAuthenticationTokenException", Code::Credentials),
    ("ExpiredToken", Code::Expired),
    ("ExpiredTokenException", Code::Expired),
    ("InvalidSignatureException", Code::Signature),
    ("SignatureDoesNotMatch", Code::Signature),
    ("IncompleteSignature", Code::Signature),
    ("IncompleteSignatureException", Code::Signature),
    ("RequestExpired", Code::Signature),
    ("RequestTimeTooSkewed", Code::Signature),
    ("AuthFailure", Code::Signature),
    ("OptInRequired", Code::NotActivated),
    ("ValidationException", Code::Invalid),
    ("SerializationException", Code::Invalid),
    ("UnknownOperationException", Code::Invalid),
];

impl Code {
    /// The meaning of this code, if every service means the same by it.
    pub fn of(code: Option<&str>) -> Option<Self> {
        let code = code?;
        let listed = CODES.iter().find(|(listed, _)| *listed == code);
        listed.map(|(_, meaning)| *meaning)
    }

    /// The codes that are listed.
    pub fn listed() -> impl Iterator<Item = &'static str> {
        CODES.iter().map(|(code, _)| *code)
    }

    /// The advice, where the code alone does not give it. The right to grant depends on the action.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Credentials => "check the access key and the session token",
            Self::Expired => "renew the credentials",
            Self::Signature => "check the secret access key and this host's clock",
            Self::NotActivated => "activate the service, or this region, for the account",
            Self::Throttled | Self::Unavailable | Self::NotGranted | Self::Invalid => "",
        }
    }

    /// Returns `true` if the right time of the signature may be all that is missing.
    pub(crate) fn may_be_the_time(self) -> bool {
        self == Self::Signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once() {
        let mut codes = Code::listed().collect::<Vec<_>>();
        codes.sort_unstable();
        let length = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), length);
    }

    #[test]
    fn only_what_everyone_means_has_a_meaning() {
        assert_eq!(Code::of(Some("ExpiredToken")), Some(Code::Expired));
        for code in [
            None,
            Some(""),
            Some("SomethingNewException"),
            Some("expiredtoken"),
        ] {
            assert_eq!(Code::of(code), None, "{code:?}");
        }
    }
}
