//! The protocol: awsJson1_1 in every respect but the encoding of the bodies.

use aws_sdk_kinesis::config::ConfigBag;
use aws_smithy_cbor::codec::{CborCodec, CborCodecSettings};
use aws_smithy_cbor::protocol::RpcV2CborProtocol;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::http::{Request, Response};
use aws_smithy_schema::http_protocol::HttpRpcProtocol;
use aws_smithy_schema::protocol::ClientProtocolInner;
use aws_smithy_schema::serde::{SerdeError, SerializableStruct, ShapeDeserializer};
use aws_smithy_schema::{Schema, ShapeId, shape_id};
use aws_smithy_types::endpoint::Endpoint;
use aws_smithy_types::error::metadata::{Builder as ErrorMetadataBuilder, ErrorMetadata};

/// The content type of Kinesis for its CBOR.
const CONTENT_TYPE: &str = "application/x-amz-cbor-1.1";
/// The service and its version, as every request to Kinesis names them.
const TARGET: &str = "Kinesis_20131202";
/// An object without members, in CBOR.
const NOTHING: &[u8] = &[0xa0];

/// The error code, made up here, of an answer that is not in CBOR: the server does not speak it, or something in between answered.
pub(crate) const NOT_CBOR: &str = "AnswerIsNotCbor";

/// Requests in CBOR; answers are for whoever made the call to read, from the [`RawBody`](crate::raw_body::RawBody) of the call.
#[derive(Debug)]
pub(crate) struct KinesisCbor {
    requests: HttpRpcProtocol<CborCodec>,
    errors: RpcV2CborProtocol,
}

impl KinesisCbor {
    pub(crate) fn new() -> Self {
        let codec = CborCodec::new(CborCodecSettings::default());
        Self {
            requests: HttpRpcProtocol::new(shape_id!("kcl.kinesis", "awsCbor1_1"), codec, CONTENT_TYPE),
            // Errors have the same shape in both protocols; the rest of that one has another route.
            errors: RpcV2CborProtocol::new(),
        }
    }
}

impl ClientProtocolInner for KinesisCbor {
    type Request = Request;
    type Response = Response;

    fn protocol_id(&self) -> &ShapeId<'static> {
        self.requests.protocol_id()
    }

    fn serialize_request(
        &self,
        input: &dyn SerializableStruct,
        schema: &Schema<'_>,
        _: &str,
        cfg: &ConfigBag,
    ) -> Result<Request, SerdeError> {
        let operation = cfg
            .load::<Metadata>()
            .ok_or_else(|| SerdeError::custom("the operation has no name"))?;
        let mut request = self.requests.serialize_request(input, schema, "/", cfg)?;
        let target = format!("{TARGET}.{}", operation.name());
        request.headers_mut().insert("x-amz-target", target);
        Ok(request)
    }

    /// The caller has the body, or it is none in CBOR.
    fn deserialize_response<'a>(
        &self,
        _: &'a Response,
        _: &Schema<'_>,
        _: &'a ConfigBag,
    ) -> Result<Box<dyn ShapeDeserializer + 'a>, SerdeError> {
        use aws_smithy_schema::codec::Codec as _;
        Ok(Box::new(self.requests.codec().create_deserializer(NOTHING)))
    }

    fn parse_error_metadata(
        &self,
        response: &Response,
        cfg: &ConfigBag,
    ) -> Result<ErrorMetadataBuilder, SerdeError> {
        if is_cbor(response) {
            self.errors.parse_error_metadata(response, cfg)
        } else {
            Ok(ErrorMetadata::builder().code(NOT_CBOR))
        }
    }

    fn update_endpoint(
        &self,
        request: &mut Request,
        endpoint: &Endpoint,
        cfg: &ConfigBag,
    ) -> Result<(), SerdeError> {
        self.requests.update_endpoint(request, endpoint, cfg)
    }
}

fn is_cbor(response: &Response) -> bool {
    let said = response.headers().get("content-type").unwrap_or_default();
    said.contains("cbor")
}
