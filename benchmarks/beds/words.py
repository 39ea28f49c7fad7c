"""Words that invented rows are made of."""

WORDS = {
    kind: words.split()
    for kind, words in {
        "first": "Abel Amara Basil Bettina Caius Clemence Darius Delphine Eamon Elspeth Fabian Freya Gareth Giselle Hamish Imogen Isidor "
        "Jocasta Keir Leonie Lucan Maren Nestor Odile Percival Quentin Romola Silas Tamsin Ursula Viggo Winifred",
        "last": "Aldane Barrowby Corvane Delacort Estermont Fenwright Galbraith Holloway Inverness Jarrow Kestering Lorimer Mortlake "
        "Nightingale Osterley Penhallow Quillon Ravenscroft Stroud Tarrant Upjohn Vandermeer Wexcombe Yelland Zouche Ambrose "
        "Brisco Carrow",
        "city": "Ardmore Belcastro Corriveau Dunhaven Estrella Farrowdale Glenwick Hartmoor Islington Jasperville Kilbride Larkspur "
        "Montclare Northolt Orchardton Pellworm Queensferry Rotherby Stavenholm Tolverne Ulverton Varsity Wrenfield Yarmouth",
        "genre": "mystery romance satire horror fantasy travel crime poetry war memoir gothic western maritime pastoral",
        "trade": "baker judge sailor dentist farmer barber tailor nurse pilot weaver miner clerk banker butcher surgeon cooper shepherd "
        "chemist printer gardener painter brewer mason lawyer",
        "adjective": "amber broken crimson distant empty frozen gilded hollow idle jagged knotted lonely marble narrow old patient quiet rusty "
        "silver tangled unlit velvet wooden yellow bitter curious drowned eager",
        "thing": "anchor bridge candle drum engine feather garden hammer island jar kettle lantern mirror needle orchard piano quarry "
        "river saddle tower umbrella violin window yard zither basket compass door ember flute",
        "did": "lifted painted followed buried carried mended ignored sold found watched borrowed cleaned guarded measured hid dropped",
        "ort": "Möll Grün Süd Höll Brück Käs Tür Büß Lämm Nöt Rüb Gäns Fähr Köh Schön Mühl Öd Wäld Hüh Dörn",
        "ort ende": "dorf hausen bühl weiler stätt brück berg öden thal rönne",
        "vorname": "Jörg Käthe Günter Bärbel Jürgen Änne Rüdiger Sören Hélène Björn Mäxchen Döris",
        "speise": "Knödel Äpfel Nüsse Brötchen Rüben Klöße Pfannküchlein Möhren Gänsekeule Spätzle",
        "month": "January February March April May June July August September October November December",
        "όνομα": "Αλέξανδρος Βασίλης Γιάννης Δημήτρης Ευάγγελος Ζήσης Ηλίας Θανάσης Ιάσονας Κώστας Λεωνίδας Μιχάλης Νικηφόρος Ξενοφώντας "
        "Οδυσσέας Παντελής Ραφαήλ Σπύρος Τιμολέων Φώτης",
        "επώνυμο": "Αγγελόπουλος Βλάχος Γεωργίου Δούκας Ευσταθίου Ζαχαρίας Θεοτόκης Ιωάννου Καλλέργης Λάμπρου Μαυρίδης Νικολαΐδης Ξανθόπουλος "
        "Οικονόμου Παπαδάκης Ράλλης Σταυρίδης Τρικούπης Υψηλάντης Φραγκούλης",
        "πόλη": "Άρτα Βέροια Γύθειο Δράμα Έδεσσα Ζαγορά Θήβα Ιτέα Καβάλα Λαμία Μυτιλήνη Νάουσα Ξάνθη Όλυμπος Πάργα Ρόδος Σπάρτη Τρίπολη Ύδρα Φλώρινα",
        "επάγγελμα": "ψαράς δάσκαλος γιατρός ναύτης μάγειρας ράφτης κτίστης βοσκός φούρναρης δικηγόρος "
        "ζωγράφος κηπουρός οδηγός σιδεράς χτενάς ψάλτης",
        "φαγητό": "ψωμί τυρί σπανάκι ρύζι κρέας ψάρι μέλι σύκα αμύγδαλα καρύδια κάστανα μανιτάρια φασόλια αυγά σταφύλια ρεβίθια",
        "ποτό": "κρασί γάλα τσάι νερό ούζο τσίπουρο κακάο ρακόμελο αριάνι σαλέπι",
        "ποιο": "Γαλάζιο Παλιό Γρήγορο Μικρό Χρυσό Ήσυχο Άγριο Λευκό Μαύρο Κρυφό Τρελό Γλυκό",
        "πράγμα": "Κύμα Αστέρι Νησί Πουλί Φεγγάρι Δελφίνι Όνειρο Βουνό Ποτάμι Λιμάνι Σύννεφο Τραγούδι",
        "姓": "霧島 水無瀬 榊原 八重樫 東雲 神楽坂 月岡 五十嵐 早乙女 鷹司 白鳥 小鳥遊 綾小路 真壁 九条 桐生 冬木 長谷部 不動 荒井",
        "名": "湊 さくら 健太郎 美咲 蓮 ひなた 正一 千尋 大和 つばさ 静香 隼人 あおい 龍之介 文子 誠 まどか 慎二 薫 エリカ",
        "土地": "青葉 白浜 緑川 月見 花園 鶴岡 霧谷 竹原 風早 桃山 雪沢 星野 金森 朝日 石倉 滝本 笹塚 海老沼",
        "職業": "漁師 教師 医者 大工 料理人 仕立屋 農家 パン屋 弁護士 画家 庭師 運転手 鍛冶屋 床屋 看護師 写真家 図書館員 プログラマー",
        "食べ物": "焼き魚 おにぎり 天ぷら うどん カレーライス 味噌汁 餃子 コロッケ 栗ご飯 茶碗蒸し ラーメン 豆腐 卵焼き オムレツ 肉じゃが たこ焼き",
        "飲み物": "緑茶 麦茶 コーヒー 牛乳 甘酒 ココア 紅茶 ラムネ 梅酒 レモネード",
        "どんな": "青い 静かな 古い 消えた 眠る 赤い 小さな 透明な 忘れられた 遠い 冷たい 不思議な",
        "もの": "灯台 手紙 ピアノ 森 時計 鏡 橋 庭 汽車 窓 島 傘 帽子 井戸 図書館 カメラ",
    }.items()
}
