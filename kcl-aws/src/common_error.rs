//! The meaning of the error codes that every service of AWS answers with.

/// The meaning of an error code that does not depend on the service. Adapters add the codes of their own service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommonError {
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
const CODES: &[(&str, CommonError)] = &[
    ("ProvisionedThroughputExceededException", CommonError::Throttled),
    ("LimitExceededException", CommonError::Throttled),
    ("ThrottlingException", CommonError::Throttled),
    ("Throttling", CommonError::Throttled),
    ("ThrottledException", CommonError::Throttled),
    ("RequestLimitExceeded", CommonError::Throttled),
    ("TooManyRequestsException", CommonError::Throttled),
    ("InternalFailureException", CommonError::Unavailable),
    ("InternalFailure", CommonError::Unavailable),
    ("InternalServerError", CommonError::Unavailable),
    ("ServiceUnavailable", CommonError::Unavailable),
    ("ServiceUnavailableException", CommonError::Unavailable),
    ("AccessDeniedException", CommonError::NotGranted),
    ("AccessDenied", CommonError::NotGranted),
    ("NotAuthorized", CommonError::NotGranted),
    ("UnauthorizedOperation", CommonError::NotGranted),
    ("UnrecognizedClientException", CommonError::Credentials),
    ("InvalidClientTokenId", CommonError::Credentials),
    ("MissingAuthenticationToken", CommonError::Credentials),
    ("MissingAuthenticationTokenException", CommonError::Credentials),
    ("ExpiredToken", CommonError::Expired),
    ("ExpiredTokenException", CommonError::Expired),
    ("InvalidSignatureException", CommonError::Signature),
    ("SignatureDoesNotMatch", CommonError::Signature),
    ("IncompleteSignature", CommonError::Signature),
    ("IncompleteSignatureException", CommonError::Signature),
    ("RequestExpired", CommonError::Signature),
    ("RequestTimeTooSkewed", CommonError::Signature),
    ("AuthFailure", CommonError::Signature),
    ("OptInRequired", CommonError::NotActivated),
    ("ValidationException", CommonError::Invalid),
    ("SerializationException", CommonError::Invalid),
    ("UnknownOperationException", CommonError::Invalid),
];

impl CommonError {
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
        let mut codes = CommonError::listed().collect::<Vec<_>>();
        codes.sort_unstable();
        let length = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), length);
    }

    #[test]
    fn only_what_everyone_means_has_a_meaning() {
        assert_eq!(CommonError::of(Some("ExpiredToken")), Some(CommonError::Expired));
        for code in [
            None,
            Some(""),
            Some("SomethingNewException"),
            Some("expiredtoken"),
        ] {
            assert_eq!(CommonError::of(code), None, "{code:?}");
        }
    }
}
