"""Pipelines that train: written for a recipe, from the templates ci_* of ftx.deploy_templates."""
