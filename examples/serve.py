"""Put a trained model behind a web server, with Ray Serve (`pip install 'raylabel[serve]'`).

    python examples/serve.py runs/demo
    curl --data-binary @image.jpg 'http://127.0.0.1:8000/?min_score=0.5'

The answer is a list of objects, as in a COCO results file. More replicas take more requests at the same time.
"""

import argparse
import asyncio

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import raylabel as rl


@serve.deployment(max_ongoing_requests=16)
class Predict:
    """One copy of the model. Threads decode images of several requests; the model takes one at a time."""

    def __init__(self, model: str) -> None:
        self.model = rl.load_model(model)

    async def __call__(self, request: Request) -> JSONResponse:
        """Predict the image that is the body of a request."""
        try:
            min_score = float(request.query_params["min_score"]) if "min_score" in request.query_params else None
            found = await asyncio.to_thread(self.model.predict, await request.body(), min_score=min_score)
        except ValueError as error:  # rl.InputError is one: what is wrong, in one line
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(found.to_coco())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a trained model on this machine.")
    parser.add_argument("model", help="run, or folder of a saved model")
    parser.add_argument("--replicas", type=int, default=1, help="copies of the model (default: %(default)s)")
    options = parser.parse_args()
    serve.run(Predict.options(num_replicas=options.replicas).bind(options.model), blocking=True)
