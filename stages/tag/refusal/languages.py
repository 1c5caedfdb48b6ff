"""Phrases of refusals in ten languages besides English; those of English are in `phrases.py`.

German, French, Spanish, Portuguese, Italian, Dutch, Russian, Chinese, Japanese and Korean. All
are ours. Each is what an assistant says of itself, in the first person and where the language
has it with the verb of the help that is refused, so that a text about refusing is none.
Apostrophes are straight: the text is folded before it is compared.
"""

from __future__ import annotations

from typing import Final

_REFUSALS: Final = {
    "de": r"""
        (?:ich\ (?:kann|darf|werde|möchte)|(?:kann|darf|werde|möchte)\ ich)\ (?:\w+,?\ ){0,9}?
        (?:nicht|keine[nrs]?|leider\ nicht)\ (?:\w+,?\ ){0,12}?
        (?:helfen|weiterhelfen|beantworten|bereitstellen|unterstützen|nachkommen|erfüllen
            |(?:an)?bieten|geben|liefern|behilflich)\b
        | ich\ bin\ nicht\ (?:in\ der\ lage|befugt)\b""",
    "fr": r"""
        je\ (?:suis\ désolée?,?\ (?:mais\ )?je\ )?ne\ (?:peux|puis|pourrai
            |vais)\ (?:malheureusement\ )?pas
        \ (?:vous\ |t'|te\ |l'|y\ )?(?:aider|fournir|répondre|donner|assister
            |accéder\ à\ (?:cette|votre)
            |satisfaire|proposer|participer)
        | je\ (?:refuse|dois\ refuser)\ de\b | je\ suis\ dans\ l'incapacité\ de""",
    "es": r"""
        (?:yo\ )?no\ (?:puedo|podré|voy\ a)\ (?:ayudar|asistir|proporcionar|brindar|ofrecer
            |responder
            |cumplir|facilitar|dar)(?:te|le|les|os|lo)?\b
        | me\ niego\ a\b | no\ me\ es\ posible\ (?:ayudar|proporcionar|responder)
        | no\ estoy\ en\ condiciones\ de""",
    "pt": r"""
        (?:eu\ )?não\ (?:posso|poderei|consigo|vou)\ (?:te\ |lhe\ |o\ |a\ )?(?:ajudar|fornecer
            |oferecer
            |responder|atender|auxiliar|dar|cumprir)(?:-lo|-la|-te|-lhe)?\b
        | recuso-me\ a\b | não\ me\ é\ possível\ (?:ajudar|fornecer|responder)""",
    "it": r"""
        (?:io\ )?non\ (?:posso|potrò|sono\ in\ grado\ di)\ (?:aiutar|fornir|risponder|assister
            |offrir
            |soddisfar|dar)\w*
        | mi\ rifiuto\ di\b | non\ mi\ è\ possibile\ (?:aiutar|fornir|risponder)\w*""",
    "nl": r"""
        (?:ik\ (?:kan|mag|zal|wil)|(?:kan|mag|zal)\ ik)\ (?:\w+,?\ ){0,6}?(?:niet|geen)
        \ (?:\w+,?\ ){0,9}?(?:helpen|beantwoorden|verstrekken|geven|bieden|voldoen|ondersteunen)\b
        | ik\ ben\ niet\ in\ staat\ om""",
    "ru": r"""
        я\ (?:,?\ к\ сожалению,?\ )?не\ (?:могу|смогу|буду|имею\ права)\ (?:вам\ |тебе\ 
            |на\ это\ |этого\ )?
        (?:помочь|помогать|предоставить|ответить|отвечать|выполнить|дать|сделать|обсуждать
            |содействовать)
        | (?:не\ могу|не\ смогу)\ (?:вам\ |тебе\ )?(?:помочь|предоставить|выполнить\ (?:этот|ваш))
        | я\ не\ в\ состоянии\b""",
    "zh": r"""
        我(?:[们們]|暂时|暫時|目前|也)?(?:无法|無法|不能|不可以|没有?办法|沒有?辦法|没法|不会|不會)(?:[为為][您你]|[给給][您你]|直接)?
        (?:回答|回[复復覆]|帮|幫|提供|[协協]助|[满滿]足|完成[这這您你]|参与|參與|讨论|討論|支持|按照|[执執]行)
        | 我(?:必须|必須|只能|不得不)?拒[绝絕](?:回答|提供|[协協]助|[这這您你])""",
    "ja": r"""
        (?:(?:その|この|ご)(?:[^。\n“「『„«\x22]{0,24})(?:には|に|は|を)、?)?
        (?:お答え|お手伝い|ご提供|対応|ご対応|提供|お応え|支援|ご支援|協力|ご協力|回答|応じる)
        (?:する)?(?:こと)?(?:は|が|を)?(?:いた|致)?(?:できません|できかねます|出来ません|しかねます)
        | お断り(?:いた|し|させ)""",
    "ko": r"""
        (?:[^.。\n“「『„«\x22]{0,40}?)
        (?:도와\s?드릴|도움을\s드릴|답변(?:을|해)?\s?드릴|답변할|제공(?:해\s?드릴|할)|응할|응해\s?드릴|지원할)
        \ ?수(?:가|는)?\s?없(?:습니다|어요|네요)""",
}  # fmt: skip
"""What refuses to help, by ISO 639 code."""

_CAPABILITIES: Final = {
    "de": r"ich\ habe\ (?:leider\ )?keinen\ (?:zugriff|zugang)\ (?:auf|zu[mr]?)\b"
    r"|als\ (?:eine?\ )?(?:ki|sprachmodell)\b[^.!?]{0,60}\ (?:habe\ ich|kann\ ich)\ (?:\w+\ )?kein",
    "fr": r"je\ n'ai\ pas\ (?:d'|l')?accès\ (?:à|aux?)\b"
    r"|en\ tant\ qu'(?:ia|intelligence\ artificielle|assistant)\b[^.!?]{0,60}\ je\ n'ai\ pas",
    "es": r"no\ tengo\ acceso\ (?:a|al)\b"
    r"|como\ (?:una?\ )?(?:ia|inteligencia\ artificial"
    r"|modelo\ de\ lenguaje)\b[^.!?]{0,60}\ no\ tengo",
    "pt": r"(?:eu\ )?não\ tenho\ acesso\ (?:a|à|ao)\b"
    r"|como\ (?:uma?\ )?(?:ia|inteligência\ artificial"
    r"|modelo\ de\ linguagem)\b[^.!?]{0,60}\ não\ tenho",
    "it": r"non\ ho\ accesso\ (?:a|al|all'|alla|ai)"
    r"|come\ (?:una?\ )?(?:ia|intelligenza\ artificiale"
    r"|modello\ linguistico)\b[^.!?]{0,60}\ non\ ho",
    "nl": r"ik\ heb\ (?:helaas\ )?geen\ toegang\ tot\b",
    "ru": r"у\ меня\ нет\ доступа\ к\b|я\ не\ имею\ доступа\ к\b",
    "zh": r"我(?:没有|沒有|无法|無法|不能)(?:直接)?(?:访问|訪問|上网|上網|浏览|瀏覽"
    r"|[连連]接|联网|聯網)"
    r"|(?:作为|作為|身为)[^，。]{0,14}(?:ai|人工智[能慧]|模型|助手|机器人)[^。]{0,12}"
    r"我(?:没有|沒有|不具备|不具備)",
    "ja": r"(?:[^。\n“「『„«\x22]{0,30})(?:アクセス|接続|閲覧)(?:する)?(?:こと)?(?:は|が)?"
    r"(?:できません|できない)",
    "ko": r"(?:[^.\n“「『„«\x22]{0,30}?)(?:에\ ?접근|에\ ?접속|에\ ?액세스)(?:할)?\ ?수"
    r"(?:가|는)?\ ?없",
}
"""What says that it has no access or senses, by ISO 639 code."""

_EPISTEMIC: Final = {
    "de": r"(?:das\ )?wei(?:ß|ss)\ ich\ (?:leider\ )?nicht\b|ich\ wei(?:ß|ss)\ (?:es\ "
    r"|das\ )?(?:leider\ )?nicht\b"
    r"|mir\ liegen\ (?:dazu\ )?keine\ informationen",
    "fr": r"je\ ne\ sais\ pas\b|je\ n'ai\ pas\ (?:d'|suffisamment\ d'|assez\ d')informations?",
    "es": r"no\ lo\ sé\b|no\ sé\ (?:la|el|cuál|qué|quién)\b|no\ (?:tengo"
    r"|dispongo\ de)\ (?:suficiente\ )?información",
    "pt": r"(?:eu\ )?não\ sei\b|(?:eu\ )?não\ (?:tenho|disponho\ de)\ informaç",
    "it": r"non\ lo\ so\b|non\ so\ (?:quale|chi|cosa|se)\b|non\ (?:ho"
    r"|dispongo\ di)\ (?:abbastanza\ )?informazioni",
    "nl": r"(?:dat\ )?weet\ ik\ (?:helaas\ )?niet\b|ik\ weet\ (?:het\ )?niet\b"
    r"|ik\ heb\ geen\ informatie",
    "ru": r"я\ не\ знаю\b|у\ меня\ нет\ (?:достаточной\ |никакой\ )?информации",
    "zh": r"我(?:也)?(?:不知道|不清楚|不[确確]定|不了解)(?:[，。！]|答案"
    r"|[这這][个個]?[问問][题題]|[您你]的[问問][题題]|[关關][于於]"
    r"|具体)|我没有(?:足够的)?(?:相关)?(?:信息|资料)",
    "ja": r"(?:[^。\n“「『„«\x22]{0,20})(?:わかりません|分かりません|存じません|情報が"
    r"(?:あり|ござい)ません)",
    "ko": r"(?:[^.\n“「『„«\x22]{0,20}?)(?:잘\ )?(?:모르겠습니다|모르겠어요|알지\ 못합니다"
    r"|정보가\ 없습니다)",
}
"""What says that it is not known, by ISO 639 code."""

OTHERS: Final = {"refusal": _REFUSALS, "capability": _CAPABILITIES, "epistemic": _EPISTEMIC}
"""The phrases of each kind by language."""

APOLOGIES: Final = r"""(?:
    (?:es\ tut\ mir\ (?:sehr\ )?leid|tut\ mir\ leid|entschuldigung|leider|bedauerlicherweise
    | (?:je\ suis\ )?(?:vraiment\ )?désolée?|malheureusement
    | lo\ siento(?:\ mucho)?|lamentablemente|desafortunadamente|disculpa
    | (?:me\ )?desculpe|sinto\ muito|infelizmente|lamento
    | mi\ dispiace|purtroppo
    | het\ spijt\ me|sorry|helaas
    | извините|простите|к\ сожалению|мне\ (?:очень\ )?жаль
    | (?:非常|很|十分|真的)?(?:抱歉|对不起|對不起|遗憾|遺憾)
    | (?:誠に)?(?:申し訳(?:ありません|ございません)|すみません)(?:が)?|残念ながら
    | (?:정말\ )?(?:죄송(?:합니다|하지만|해요)(?:만)?|미안(?:합니다|하지만)|유감스럽게도|안타깝게도)
    )[\s,.:;!，。！、]*(?:(?:aber|mais|pero|mas|ma|maar|но|但是?|que|dass|che|dat|что)[\s,，]*)?
)"""
"""What may stand before a phrase and belongs to it."""
