#!/bin/sh
# The service's start under uvicorn.
exec uvicorn --factory shop.web:create_app \
    --uds run/shop.sock \
    --workers 2 \
    --ssl-certfile tls/cert.pem --ssl-keyfile tls/key.pem \
    --proxy-headers --forwarded-allow-ips '*' \
    --root-path /shop \
    --env-file production.env \
    --log-config logging.yaml \
    --header X-Frame-Options:DENY --no-server-header \
    --timeout-keep-alive 15 \
    --timeout-graceful-shutdown 20 \
    --limit-concurrency 200 \
    --backlog 512 \
    --ws-max-size 65536
