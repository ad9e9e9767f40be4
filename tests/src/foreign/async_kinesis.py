"""async-kinesis, by polling. It hands out contents only; its shards are looked for every minute."""

import asyncio
import os
import sys

from kinesis import Consumer, StringProcessor

from note import note


async def main(stream):
    endpoint = os.environ["AWS_ENDPOINT_URL_KINESIS"]
    options = {"endpoint_url": endpoint, "region_name": os.environ["AWS_REGION"]}
    async with Consumer(stream, processor=StringProcessor(), sleep_time_no_records=0.25, **options) as consumer:
        while True:
            async for item in consumer:
                note(data=item if isinstance(item, str) else item.decode())


asyncio.run(main(sys.argv[1]))
