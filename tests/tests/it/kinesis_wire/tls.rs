//! The source over HTTPS.

use aws_config::SdkConfig;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::source::{StartPosition, StreamSource as _};
use kcl_kinesis::{FanOut, KinesisStream, PollingSettings, RecordFormat};
use kcl_lease_memory::MemoryStream;
use kinesis_local::{Operation, WireOptions, WireServer, WireTls};

use crate::kinesis_wire::served::{NAME, PATIENCE, aws, next, payloads};

async fn served() -> (WireServer, MemoryStream, SdkConfig) {
    let tls = WireTls::self_signed(["localhost", "127.0.0.1"]).unwrap();
    let trusted = TrustStore::empty().with_pem_certificate(tls.authority_pem());
    let context = TlsContext::builder().with_trust_store(trusted).build().unwrap();
    let client = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https();
    let options = WireOptions {
        tls: Some(tls),
        ..WireOptions::unlimited()
    };
    let stream = MemoryStream::builder(NAME).shards(1).build();
    let server = WireServer::start([stream.clone()], options).await.unwrap();
    let config = aws(&server).into_builder().http_client(client).build();
    (server, stream, config)
}

#[tokio::test]
async fn shard_is_read_to_its_end_over_https() {
    let polling = |format| PollingSettings {
        format,
        ..PollingSettings::default()
    };
    for read in [Operation::GetRecords, Operation::SubscribeToShard] {
        for format in [RecordFormat::Cbor, RecordFormat::Json] {
            let (server, stream, config) = served().await;
            let source = KinesisStream::new(&config, NAME).with_polling(polling(format));
            let source = match read == Operation::SubscribeToShard {
                true => source.with_fan_out(FanOut::consumer("suite")),
                false => source,
            };
            let shard = stream.shards_snapshot()[0].shard.id.clone();
            stream.put("truck", "one").unwrap();
            let mut reader = source.open(&shard, StartPosition::TrimHorizon).await.unwrap();
            assert_eq!(payloads(&mut reader).await, ["one"]);
            stream.put("truck", "two").unwrap();
            assert_eq!(payloads(&mut reader).await, ["two"]);
            stream.split(&shard).unwrap();
            let end = async {
                loop {
                    if let Some(end) = next(&mut reader).await.unwrap().end {
                        return end;
                    }
                }
            };
            let end = TokioClock::new().timeout(PATIENCE, end).await.unwrap();
            assert_eq!(end.children.len(), 2);
            assert!(server.requests().count(read) > 0);
        }
    }
}

#[tokio::test]
async fn untrusted_certificate_is_said_to_be_that() {
    let (server, stream, _) = served().await;
    let shard = stream.shards_snapshot()[0].shard.id.clone();
    let source = KinesisStream::new(&aws(&server), NAME);
    let opened = source.open(&shard, StartPosition::TrimHorizon).await;
    let error = kcl_core::Causes(&opened.unwrap_err()).to_string();
    assert!(error.contains("certificate"), "{error}");
}
