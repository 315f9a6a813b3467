"""Sample configuration: copy it to the directory where you submit or start a worker, and uncomment what you need.

It is read as soon as it sets a name that begins with `studio_`. Names without that prefix are Celery's own. Every
setting can be given as a flag or as an environment variable too: `studio_store` is `STUDIO_STORE`. This sample changes
nothing as it is.
"""

# -- where messages go and where experiments are recorded ------------------------------------------

#: Google Pub/Sub in a project of yours, or any other Celery broker.
# studio_broker_url = "pubsub://my-project"
# studio_broker_url = "amqp://user:password@rabbit.example/"

#: A directory, gs://bucket/prefix or s3://bucket/prefix; on a remote broker every machine must see the same one.
# studio_store = "gs://my-bucket/studio"
# studio_store_is_shared = False

#: Local store, caches, and what runs on a worker.
# studio_home = "~/.studio"

# -- submitting ------------------------------------------------------------------------------------

# studio_queue = "default"
# studio_project = "my-project"
# studio_workspace_limit = "500m"

# -- a worker --------------------------------------------------------------------------------------

#: "docker", or "process" for no isolation at all.
# studio_runtime = "docker"
# studio_image = "python:3.11-slim"

#: Cards that this worker may use ("0,1", "none"), and experiments at a time (default: one for each card).
# studio_gpus = "0,1"
# studio_concurrency = 2

#: What is kept on a worker so that it need not be made again: installed requirements, workspace archives.
# studio_cache_bytes = "50g"

#: The user that scripts run as in containers when the worker is root.
# studio_uid = "1000:1000"

# -- times, in seconds or as "30s", "5m" -----------------------------------------------------------

# studio_heartbeat_seconds = 10
# studio_stop_grace_seconds = 30
# studio_patience_floor_seconds = 60
# studio_patience_ceiling_seconds = 600

# -- Celery's own ----------------------------------------------------------------------------------

# worker_send_task_events = True
# broker_transport_options = {"prefix": "team-a-"}
