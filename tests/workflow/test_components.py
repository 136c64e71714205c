"""Registering, finding, building and closing components."""

import asyncio
import sys
from importlib.metadata import EntryPoint, entry_points

import pytest

from millstream.errors import ConfigError, InputError
from millstream.workflow import (
    Builder,
    FunctionBaseConfig,
    FunctionInfo,
    LLMFrameworkEnum,
    load_config,
    open_workflow,
    register_function,
    registry,
)
from millstream.workflow.checks import check_config


async def run(path, message, *overrides):
    async with open_workflow(load_config(path, overrides)) as workflow:
        return await workflow.run(message)


async def test_the_example_of_the_contract(write, llms, spans):
    tools = """
from millstream import Builder, FunctionBaseConfig, FunctionInfo, LLMFrameworkEnum, register_function

class PhishingConfig(FunctionBaseConfig, name="email_phishing_analyzer"):
    llm: str
    prompt: str

@register_function(config_type=PhishingConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN])
async def email_phishing_analyzer(config: PhishingConfig, builder: Builder):
    llm = await builder.get_llm(config.llm, wrapper_type=LLMFrameworkEnum.LANGCHAIN)
    async def analyze(text: str) -> str:
        return (await llm.ainvoke(config.prompt.format(body=text))).text
    yield FunctionInfo.from_fn(analyze, description="Looks for phishing.")
"""
    path = write(
        llms
        + "general: {modules: [tools.py]}\n"
        + "workflow: {type: email_phishing_analyzer, config: {llm: able, prompt: 'Look: {body}'}}\n",
        tools=tools,
    )
    assert await run(path, "hello") == "You said Look: hello"
    root, llm = spans()
    assert (root.name, root.workload_id, llm.parent_id) == (
        "email_phishing_analyzer",
        root.name,
        root.span_id,
    )


async def test_a_builder_may_return_a_function_or_info(write):
    class PlainConfig(FunctionBaseConfig, name="plain"):
        text: str = "!"

    @register_function(config_type=PlainConfig)
    async def plain(config, builder):
        return lambda message: message + config.text

    class InfoConfig(FunctionBaseConfig, name="info"):
        pass

    @register_function(config_type=InfoConfig)
    def info(config, builder):
        return FunctionInfo.from_fn(str.upper)

    assert await run(write("workflow: {_type: plain}"), "hi") == "hi!"
    assert await run(write("workflow: {_type: info}"), "hi") == "HI"


async def test_components_are_built_once_and_closed_in_reverse(write):
    events = []

    class StepConfig(FunctionBaseConfig, name="step"):
        needs: list[str] = []

    @register_function(config_type=StepConfig, framework_wrappers=[])
    async def step(config, builder):
        functions = await asyncio.gather(*(builder.get_function(name) for name in config.needs))
        name = f"needs {' and '.join(config.needs)}" if config.needs else "leaf"
        events.append(f"built {name}")

        async def call(text: str) -> str:
            return "".join([await function(text) for function in functions]) or text

        yield FunctionInfo.from_fn(call)
        events.append(f"closed {name}")

    yaml = """
functions:
  unused: {_type: step, needs: [nothing]}
  leaf: {_type: step}
  a: {_type: step, needs: [leaf]}
  b: {_type: step, needs: [leaf]}
workflow: {_type: step, needs: [a, b]}
"""
    assert await run(write(yaml), "x") == "xx"
    assert events == [
        "built leaf",
        "built needs leaf",
        "built needs leaf",
        "built needs a and b",
        "closed needs a and b",
        "closed needs leaf",
        "closed needs leaf",
        "closed leaf",
    ]


@pytest.mark.parametrize(
    ("functions", "circle"),
    [
        ("a: {_type: link, to: a}", "functions.a -> functions.a"),
        (
            "a: {_type: link, to: b}, b: {_type: link, to: c}, c: {_type: link, to: a}",
            "functions.a -> functions.b -> functions.c -> functions.a",
        ),
    ],
)
async def test_a_circle_is_named(write, functions, circle):
    class LinkConfig(FunctionBaseConfig, name="link"):
        to: str

    @register_function(config_type=LinkConfig, framework_wrappers=[])
    async def link(config, builder):
        other = await builder.get_function(config.to)
        yield FunctionInfo.from_fn(other)

    with pytest.raises(ConfigError, match=f"in a circle: {circle}$"):
        await run(write(f"functions: {{{functions}}}\nworkflow: {{_type: link, to: a}}"), "x")


async def test_two_functions_that_wait_for_each_other_do_not_hang(write):
    class PairConfig(FunctionBaseConfig, name="pair"):
        to: list[str]

    @register_function(config_type=PairConfig, framework_wrappers=[])
    async def pair(config, builder):
        await asyncio.sleep(0)
        await asyncio.gather(*(builder.get_function(name) for name in config.to))
        yield FunctionInfo.from_fn(str.upper)

    functions = "functions: {a: {_type: pair, to: [b]}, b: {_type: pair, to: [a]}}\n"
    yaml = functions + "workflow: {_type: pair, to: [a, b]}"
    with pytest.raises(ConfigError, match=r"in a circle"):
        await asyncio.wait_for(run(write(yaml), "x"), 5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise OSError('no disk')\n    yield", r"workflow \(bad\) could not be built: OSError: no disk"),
        ("return\n    yield", "ended without yielding a function"),
        ("yield 3", "gave int, not a FunctionInfo or a function"),
        ("yield str.upper\n    yield str.lower", "yields more than once"),
    ],
)
async def test_build_functions_that_are_wrong(write, body, message):
    tools = f"""
from millstream.workflow import FunctionBaseConfig, register_function

class BadConfig(FunctionBaseConfig, name="bad"):
    pass

@register_function(config_type=BadConfig, framework_wrappers=[])
async def bad(config, builder):
    {body}
"""
    with pytest.raises(ConfigError, match=message):
        await run(write("general: {modules: [tools.py]}\nworkflow: {_type: bad}", tools=tools), "x")


def test_a_name_belongs_to_one_function():
    class FirstConfig(FunctionBaseConfig, name="mine"):
        pass

    @register_function(config_type=FirstConfig)
    async def first(config, builder):
        yield

    register_function(config_type=FirstConfig)(first)  # the same again
    with pytest.raises(
        ConfigError, match=r"the component 'mine' is registered twice: by .*first and by .*second"
    ):

        @register_function(config_type=FirstConfig)
        async def second(config, builder):
            yield


def test_a_configuration_needs_a_name_and_refuses_unknown_keys():
    class Nameless(FunctionBaseConfig):
        pass

    with pytest.raises(ConfigError, match=r"Nameless has no name"):
        register_function(config_type=Nameless)
    with pytest.raises(ConfigError, match=r"unknown _type 'react_agnet'; did you mean 'react_agent'"):
        registry.find("react_agnet")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A distribution on the path, as an installed one looks to Python."""

    def make(entry_points_text, module):
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points_text)
        (tmp_path / "acme_parts.py").write_text(module)
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("acme_parts", None)

    return make


async def test_components_of_installed_packages(write, package):
    package(
        "[millstream.components]\nacme = acme_parts\n"
        "[millstream.agents]\nacme_agent = acme_parts:make_agent\n",
        """
from millstream.workflow import FunctionBaseConfig, register_function

class ShoutConfig(FunctionBaseConfig, name="acme_shout"):
    mark: str = "!"

@register_function(config_type=ShoutConfig)
async def shout(config, builder):
    yield lambda text: text.upper() + config.mark

def make_agent(greeting, builder):
    async def agent(text):
        return f"{greeting} {text} {sorted(builder.config.functions)}"
    return agent
""",
    )
    assert await run(write("workflow: {_type: acme_shout, mark: '?'}"), "hi") == "HI?"
    assert await run(write("workflow: {_type: acme_agent, greeting: hello}"), "you") == "hello you []"


def test_a_broken_package_is_named(package):
    package("[millstream.components]\nacme = acme_parts\n", "1 / 0")
    with pytest.raises(
        ConfigError, match=r"entry point 'acme'.* of the package acme cannot be loaded: ZeroDivisionError"
    ):
        registry.find("something")


async def test_models_of_installed_packages(write, package):
    package(
        "[millstream.llms]\nacme_llm = acme_parts:Model\n",
        "class Model:\n    def __init__(self, *, size):\n        self.size = size\n",
    )
    builder = Builder(
        load_config(write("llms: {a: {_type: acme_llm, size: 7}, b: {_type: acme_llm, sise: 7}}"))
    )
    assert (await builder.get_llm("a")).size == 7
    with pytest.raises(
        ConfigError, match=r"llms.b: acme_llm refuses these keys: .*unexpected keyword argument 'sise'"
    ):
        await builder.get_llm("b")


def test_the_entry_points_of_tests_do_not_stay():
    assert not [
        point for point in entry_points(group="millstream.components") if isinstance(point, EntryPoint)
    ]


async def test_files_are_imported_once_and_see_each_other(write, tmp_path):
    yaml = "general: {modules: [first_part.py, second_part.py, ./first_part.py]}\nworkflow: {_type: counted}"
    first = (
        "import builtins\nbuiltins.times_imported = getattr(builtins, 'times_imported', 0) + 1\nmark = '#'\n"
    )
    second = """
import builtins
import first_part
from millstream.workflow import FunctionBaseConfig, register_function

class CountedConfig(FunctionBaseConfig, name="counted"):
    pass

@register_function(config_type=CountedConfig)
async def counted(config, builder):
    yield lambda text: first_part.mark + str(builtins.times_imported)
"""
    path = write(yaml, first_part=first, second_part=second)
    assert await run(path, "x") == "#1"
    assert await run(path, "x") == "#1"


async def test_two_files_of_one_name_are_two_modules(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "same_name.py").write_text(f"def ask(text):\n    return '{name}'\n")
        (folder / "flow.yml").write_text("workflow: {_type: python, target: 'same_name.py:ask'}")
    assert [await run(tmp_path / name / "flow.yml", "x") for name in ("one", "two")] == ["one", "two"]


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("gone.py", "", r"general.modules.0: there is no Python file .*gone.py"),
        (
            "gone_module",
            "",
            "there is no module 'gone_module'; for a file write its path, such as gone_module.py",
        ),
        ("bad.py", "x = 1\n1 / 0\n", r"bad.py cannot be imported: ZeroDivisionError: .*bad.py, line 2\)"),
        (
            "bad.py",
            "import not_installed_at_all\n",
            "ModuleNotFoundError: No module named 'not_installed_at_all'",
        ),
        ("bad.py", "x = = 1\n", "SyntaxError: invalid syntax .*line 1"),
        ("bad.py", "raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_modules_that_cannot_be_imported(write, module, text, message):
    config = load_config(write(f"general: {{modules: ['{module}']}}", bad=text))
    with pytest.raises(ConfigError, match=message):
        check_config(config)


async def test_get_llm_and_frameworks(write, llms, monkeypatch):
    builder = Builder(load_config(write(llms)))
    with pytest.raises(ConfigError, match=r"there is no llms.abel; did you mean 'able'"):
        await builder.get_llm("abel")
    with pytest.raises(ConfigError, match=r"wrapper_type 'crewai' is not in this version"):
        await builder.get_llm("able", wrapper_type=LLMFrameworkEnum.CREWAI)
    with pytest.raises(ConfigError, match=r"there is no embedders.e"):
        await builder.get_embedder("e")
    with pytest.raises(ConfigError, match=r"there is no section workflow"):
        await builder.get_workflow()
    assert await builder.get_llm("able") is await builder.get_llm("able")
    await builder.aclose()


async def test_where_models_are_and_what_they_are_told(write, monkeypatch):
    yaml = """
llms:
  own: {_type: openai, model_name: m, base_url: "http://localhost:1/v1/", max_tokens: 5, seed: 3}
  hosted: {_type: nim, model_name: n}
  keyless: {_type: openai, model_name: m}
"""
    builder = Builder(load_config(write(yaml)))
    own = await builder.get_llm("own")
    assert own.streaming
    assert own.stream_usage
    assert own.openai_api_base == "http://localhost:1/v1"
    payload = own._get_request_payload("hi")
    assert {key: payload[key] for key in ("model", "max_tokens", "seed", "stream")} == {
        "model": "m",
        "max_tokens": 5,
        "seed": 3,
        "stream": True,
    }
    with pytest.raises(
        ConfigError, match=r"integrate.api.nvidia.com needs an API key; set .* NVIDIA_API_KEY"
    ):
        await builder.get_llm("hosted")
    with pytest.raises(ConfigError, match=r"api.openai.com needs an API key; set .* OPENAI_API_KEY"):
        await builder.get_llm("keyless")
    monkeypatch.setenv("NVIDIA_API_KEY", "nv")
    hosted = await builder.get_llm("hosted")
    assert hosted.openai_api_base == "https://integrate.api.nvidia.com/v1"
    assert hosted.openai_api_key.get_secret_value() == "nv"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:2/v1")
    assert (await builder.get_llm("keyless")).openai_api_base == "http://localhost:2/v1"
    await builder.aclose()


async def test_tools_say_what_they_take(write):
    tools = '''
from typing import Literal
from pydantic import BaseModel, Field
from millstream.workflow import FunctionBaseConfig, FunctionInfo, register_function

class Query(BaseModel):
    text: str = Field(description="what to look for")
    top: int = 3

class KindConfig(FunctionBaseConfig, name="kind"):
    which: str

@register_function(config_type=KindConfig)
async def kind(config, builder):
    async def by_model(query: Query) -> str:
        return f"{type(query).__name__} {query.text} {query.top}"
    def sync(city: str, unit: Literal["C", "F"] = "C", rain: bool = False) -> str:
        """The weather."""
        return f"{city} {unit} {rain}"
    def by_schema(given):
        return f"{given.text}/{given.top}"
    fn = {"by_model": by_model, "sync": sync, "by_schema": by_schema}[config.which]
    schema = Query if config.which == "by_schema" else None
    yield FunctionInfo.from_fn(fn, input_schema=schema)
'''
    names = ["by_model", "sync", "by_schema"]
    functions = ", ".join(f"{name}: {{_type: kind, which: {name}}}" for name in names)
    builder = Builder(
        load_config(write(f"general: {{modules: [tools.py]}}\nfunctions: {{{functions}}}", tools=tools))
    )
    by_model, sync, by_schema = await builder.get_tools(names)
    assert list(by_model.args) == ["text", "top"]
    assert by_model.args["text"]["description"] == "what to look for"
    assert await by_model.ainvoke({"text": "x"}) == "Query x 3"
    assert sync.description == "The weather."
    assert sync.args["unit"]["enum"] == ["C", "F"]
    assert await sync.ainvoke({"city": "Ulm", "rain": True}) == "Ulm C True"
    assert sync.invoke({"city": "Ulm"}) == "Ulm C False"
    assert await by_schema.ainvoke({"text": "x", "top": 1}) == "x/1"
    function = await builder.get_function("by_model")
    assert await function.ainvoke("y") == "Query y 3"
    assert await function.ainvoke({"text": "y", "top": 9}) == "Query y 9"
    with pytest.raises(InputError, match=r"the input of by_model does not fit: top"):
        await function.ainvoke({"text": "y", "top": "many"})
    with pytest.raises(ConfigError, match=r"a tool is named twice"):
        await builder.get_tools(["sync", "sync"])
    with pytest.raises(ConfigError, match=r"'a tool' cannot be the name of a tool"):
        await builder.get_tools(["a tool"])
    await builder.aclose()
