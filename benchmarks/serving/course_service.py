"""The yardstick: the prediction service of the well-known MLOps course, a Flask app around its notebook's model.

    COURSE_MODEL=file.npz gunicorn course_service:app

One vectorizer and one linear regression, as the course has them; kept as arrays, which ``train`` writes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from flask import Flask, Response, jsonify, request
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression

app = Flask("duration-prediction")

if "COURSE_MODEL" in os.environ:
    arrays = np.load(os.environ["COURSE_MODEL"])
    vectorizer, regression = DictVectorizer(), LinearRegression()
    vectorizer.feature_names_ = arrays["names"].tolist()
    vectorizer.vocabulary_ = {name: column for column, name in enumerate(vectorizer.feature_names_)}
    regression.coef_, regression.intercept_ = arrays["coefficients"], float(arrays["intercept"])


@app.route("/predict", methods=["POST"])
def predict() -> Response:
    """Predict one trip."""
    trip = request.get_json()
    features = {"PU_DO": f"{trip['pickup_zone']}_{trip['dropoff_zone']}", "trip_distance": trip["trip_distance_miles"]}
    return jsonify({"duration": float(regression.predict(vectorizer.transform(features))[0])})


def train(month: Path, file: Path) -> None:
    """Fit the notebook's model to a month of green taxi trips, and write it down."""
    import pandas as pd

    trips = pd.read_parquet(month)
    minutes = (trips.lpep_dropoff_datetime - trips.lpep_pickup_datetime).dt.total_seconds() / 60
    trips, minutes = trips[(minutes >= 1) & (minutes <= 60)], minutes[(minutes >= 1) & (minutes <= 60)]
    trips["PU_DO"] = trips.PULocationID.astype(str) + "_" + trips.DOLocationID.astype(str)
    fitted = DictVectorizer()
    matrix = fitted.fit_transform(trips[["PU_DO", "trip_distance"]].to_dict(orient="records"))
    line = LinearRegression().fit(matrix, minutes)
    np.savez(file, names=fitted.feature_names_, coefficients=line.coef_, intercept=line.intercept_)
