"""The composition root of the web process: `create_app` wires settings, stores, routes and error handling together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app import __version__
from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock, SystemClock
from app.adapters.queue import JobQueue
from app.config import Settings, get_settings
from app.db.session import Database
from app.services.library import HousekeepingThread
from app.services.webhooks import DeliveryThread
from app.web import api, routes
from app.web.errors import install_error_handlers
from app.web.logging import install_request_logging
from app.web.metrics import install_metrics
from app.web.openapi import install_openapi
from app.web.rate_limits import install_rate_limits
from app.web.security import install_security
from app.web.state import AppState
from app.web.static import VersionedStaticFiles


def create_app(settings: Settings | None = None, *, clock: Clock | None = None) -> FastAPI:
    """The ASGI application. Needs a migrated database; the broker may be away."""
    settings = settings or get_settings()
    settings.require_real_secret()
    database = Database(settings.sqlalchemy_url)
    state = AppState(
        settings=settings,
        database=database,
        blobs=BlobStore(settings.blob_root, endpoint_url=settings.blob_endpoint_url),
        queue=JobQueue(settings.celery_broker_url),
        clock=clock or SystemClock(),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        deliveries = DeliveryThread(database, settings, state.clock)
        deliveries.start()
        housekeeping = HousekeepingThread(database, state.blobs, settings, state.clock)
        housekeeping.start()
        with state.event_streams.ended_by_signals():
            yield
        await run_in_threadpool(deliveries.stop)
        await run_in_threadpool(housekeeping.stop)
        await limiter.close()
        database.dispose()

    app = FastAPI(
        title="Tastemaker",
        version=__version__,
        summary="Interactive RLHF for diffusion models.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.tastemaker = state
    install_error_handlers(app, max_bytes=settings.max_upload_bytes)
    limiter = install_rate_limits(app, settings, state.clock)
    install_security(app, settings)
    install_metrics(app, state)
    install_request_logging(app)  # the last is the outermost: refusals of the others are logged too
    install_openapi(app)
    app.include_router(api.router)
    app.include_router(routes.router)
    app.mount("/static", VersionedStaticFiles(), name="static")
    return app
