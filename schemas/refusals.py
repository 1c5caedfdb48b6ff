"""How answers refuse, and how they call themselves machines: phrases that they open with."""

from __future__ import annotations

from typing import Final

REFUSAL: Final = r"""(?xi)
    \A\W*
    (?: (?:(?:i['’]m|i\ am|we['’]re)\ (?:\w+\ )?)?(?:sorry|afraid) | (?:my\ )?apologies
        | i\ apologi[sz]e | unfortunately
        | as\ an?\ (?:\w+\ ){0,3}(?:ai|model|assistant)\b[^.]{0,40}?
    )?
    [\s,.:;-]*(?:(?:but|that)\ )?
    (?:i|we)\ ?
    (?: can\ ?not | can['’]t | could\ not | couldn['’]t | will\ not | won['’]t | must\ decline
        | (?:am|['’]m|are)\ (?:not\ able|unable)\ to
        | (?:do\ not|don['’]t)\ feel\ comfortable
    )\ ?
    (?: \w+ly\ )?
    (?: \b(?: access | answer | assist | browse | complete | comply | create | determine
        | discuss | display | do\ (?:that|this|so) | draw | engage | extract | fulfil | generate
        | give | help | offer | open | participate | predict | provide | recommend | respond
        | share\ (?:that|this|personal) | support | view | write | in\ good\ conscience )
      | (?:with|to) )
    | \A\W* (?:(?:非常|很|十分)?(?:抱歉|对不起|遗憾)[，,。！\ ]*(?:但是?)?)?
    (?:作为[^，,。]{0,20}[，,]\ ?)?
    我(?:暂时)?(?:无法|不能|没有?办法|没法)
    (?:回答|回复|帮|提供|协助|满足|完成|参与|生成|讨论|处理|执行|为[您你]|给[您你]|按照|继续)
"""
"""An answer that opens by saying that it cannot or will not help, perhaps after an apology."""

AI_DISCLAIMER: Final = r"""(?xi)
    \b(?:as|i['’]m|i\ am)\ (?:just\ |only\ )?an?\s
    (?:ai|artificial\ intelligence|(?:large\ |ai\ )?language\ model|virtual\ assistant|chatbot)
    (?:[^\w-]|\z)
    | \bmy\ (?:knowledge\ cut-?off|training\ data)\b
    | 作为(?:一个|一款|一名)?(?:ai|人工智能|大?(?:型)?语言模型)
"""
"""An answer that calls itself a machine."""
